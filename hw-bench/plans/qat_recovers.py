"""How much of what calibration loses quantization-aware training gains back: three seeds.

A network with depthwise layers whose channels differ a thousandfold, quantized with one scale for a
weight, as accelerators want it: a model built to lose. Points are those of the emitted ONNX file by
ONNX Runtime, on rows that nothing was trained or calibrated on. Training sees no label. Writes
JSON; exit code 1 if less than half is gained back.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from fakes.networks import Uneven, lines  # noqa: E402
from skerry.bench.machine import read_machine, read_now  # noqa: E402
from skerry.converter.emit import Signature, emit  # noqa: E402
from skerry.converter.quantize import Scheme, calibrate  # noqa: E402
from skerry.converter.quantize.qat import Trainable, settled  # noqa: E402
from skerry.converter.quiet import quieten  # noqa: E402
from skerry.converter.steps.base import Workbench  # noqa: E402
from skerry.converter.steps.config import Finetune, Qat  # noqa: E402
from skerry.converter.steps.finetune import finetune  # noqa: E402
from skerry.converter.steps.qat import train_quantized  # noqa: E402
from skerry.runtime.bundle.card import TensorSpec  # noqa: E402
from skerry.runtime.engine.select import open_engine  # noqa: E402

SEEDS = (1, 2, 3)
HELD_OUT = 1024
EPOCHS = 40
LEAST_SHARE = 0.5
SIGNATURE = Signature(
    (TensorSpec("image", "float32", (-1, 1, 8, 8)),), (TensorSpec("scores", "float32", (-1, 8)),)
)


def points(name: str, precision: str, model: Any, folder: Path) -> float:
    """Of the emitted file, in percent."""
    held = lines(HELD_OUT, seed=99)
    place = folder / name
    place.mkdir()
    (images,) = held.inputs
    made = emit("onnx", precision, model, (images[:2],), SIGNATURE, place)
    engine = open_engine("onnx", made.path)
    scores = engine.run({"image": images.numpy()})["scores"]
    engine.close()
    return 100 * float((scores.argmax(1) == held.labels.numpy()).mean())


def run(seed: int, folder: Path) -> dict[str, float]:
    torch.manual_seed(seed)
    training = lines(seed=seed)
    model = Uneven().eval()
    place = Workbench(
        source=model,
        training=training,
        seed=seed,
        factory=lambda *_: Uneven(),
        advance=lambda _: None,
    )
    finetune(Finetune(epochs=25, batch=32, learning_rate=2e-2), model, place)
    model.spread()
    (images,) = training.inputs
    begun = calibrate(model, (images[:2],), [(images,)], Scheme(per_channel=False))
    trainable = Trainable(begun, scales=True)
    blind = replace(training, labels=torch.zeros_like(training.labels))
    config = Qat(epochs=EPOCHS, batch=32, learning_rate=3e-3)
    train_quantized(config, trainable, model, replace(place, training=blind), softmax=False)
    exact = points("float", "fp32", model, folder)
    lost = points("calibrated", "int8", begun, folder)
    gained = points("trained", "int8", settled(trainable, begun), folder)
    return {
        "fp32": exact,
        "int8, calibrated": lost,
        "int8, trained": gained,
        "share gained back": round((gained - lost) / (exact - lost), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/qat_recovers.json")
    args = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    before = read_now()
    runs = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            runs[seed] = run(seed, Path(folder))
        print(f"seed {seed}: {runs[seed]}", file=sys.stderr, flush=True)
    shares = [one["share gained back"] for one in runs.values()]
    losses = [one["fp32"] - one["int8, calibrated"] for one in runs.values()]
    checks = {
        "calibration loses more than 10 points, each seed": min(losses) > 10,
        "training gains back at least half, each seed": min(shares) >= LEAST_SHARE,
    }
    report = {
        "command": "python hw-bench/plans/qat_recovers.py",
        "rows": {"trained and calibrated on": 256, "held out": HELD_OUT},
        "epochs": EPOCHS,
        "seeds": runs,
        "share gained back": {
            "mean": round(statistics.mean(shares), 4),
            "spread": round(max(shares) - min(shares), 4),
        },
        "checks": checks,
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(read_now()),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    print(msgspec.json.encode(checks).decode())
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
