"""What each step of shrinking gains: ResNet56 on CIFAR-10 JPEGs, three seeds, int8 ONNX.

The teacher that `cifar_shrink.py train` left is quantized as it is, then half its blocks are taken
out and the rest distilled, then channels are pruned, then the quantized model trained or, instead,
the layers that hurt kept out of int8; each row adds a step to the one before, by `skerry convert`.
The same student trained on labels alone shows what the teacher gives. Trainings are short: an
eighth of the training pictures, a few epochs. Goes on where it was stopped. Writes JSON.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _cifar import load_images
from _result import write_result

from skerry.bench.machine import read_now

RECIPE = Path(__file__).resolve().parent / "cifar" / "ten.toml"
TRAIN, EVALUATION, RATE = 6_250, 5_000, 0.02
COMMON = f'batch=64, optimizer="sgd", learning_rate={RATE}, augment={{crop=4, flip=true}}'
TEACHER = 'teacher="source"'
DISTILL = f'{{kind="distill", depth=0.5, epochs=4, {COMMON}}}'
LABELS = f'{{kind="distill", depth=0.5, hard_share=1.0, epochs=4, {COMMON}}}'
SHAPE = "ratios={layer2=0.5, layer3=0.5}, round_to=4"
PRUNE = f'{{kind="prune", {TEACHER}, {SHAPE}, epochs=4, {COMMON}}}'
QAT = f'{{kind="qat", {TEACHER}, epochs=1, batch=64, learning_rate=1e-4}}'
ROWS: dict[str, tuple[str, ...]] = {
    "PTQ only": ("step=[]",),
    "half the blocks, labels alone": (f"step=[{LABELS}]",),
    "+ distillation": (f"step=[{DISTILL}]",),
    "+ pruning": (f"step=[{DISTILL}, {PRUNE}]",),
    "+ QAT": (f"step=[{DISTILL}, {PRUNE}, {QAT}]",),
    "mixed precision in place of QAT": (
        f"step=[{DISTILL}, {PRUNE}]",
        'quantize.mixed={levels=["fp16"], most=0.15}',
        "gate.snr_db=35.0",
    ),
}


def pictures(work: Path, split: str, count: int) -> Path:
    """A seeded choice of the pictures of a split, as an .npz file."""
    path = work / f"{split}-{count}.npz"
    if not path.is_file():
        images, labels = load_images(split, count)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, image=images, label=labels)
    return path


def run(work: Path, teacher: Path, row: str, seed: int) -> dict[str, Any]:
    """One row, converted and judged; a failed gate is a result too."""
    kept = work / f"{list(ROWS).index(row)}-{seed}.json"
    if not kept.is_file():
        settings = [
            f"source.weights={teacher}",
            f"data.train={pictures(work, 'train', TRAIN)}",
            f"data.evaluation={pictures(work, 'test', EVALUATION)}",
            f"build.seed={seed}",
            f'data.calibration={{from="train", count=512, seed={seed}}}',
            'target.formats=["onnx"]',
            "gate={}",
            *ROWS[row],
        ]
        entry = [str(Path(sys.executable).with_name("skerry")), "convert", str(RECIPE)]
        words = [part for one in settings for part in ("--set", one)]
        out = work / f"seed-{seed}"  # one for all rows: steps that they share are taken once
        if (code := subprocess.run([*entry, "--out", str(out), *words]).returncode) not in (0, 3):
            raise SystemExit(code)
        shutil.copy(out / "result.json", kept)
    result = msgspec.json.decode(kept.read_bytes())
    (artifact,) = (one for one in result["artifacts"] if one["precision"] == "int8")
    return {
        "top1": artifact["metric"],
        "floating": result["model_metric"],
        "bytes": artifact["bytes"],
        "p50_ms": artifact["latency_ms"]["p50"],
        "snr_db": artifact["snr_db"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("out/cifar"))
    parser.add_argument("--out", type=Path, default=Path("hw-bench/results/cifar_ablation.json"))
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    teacher = work / "teacher/model/weights.safetensors"
    if not teacher.is_file():
        print("skipped: no teacher; run cifar_shrink.py train first")
        return 0
    before = read_now()
    rows = {
        row: [run(work / "ablation", teacher, row, seed) for seed in arguments.seeds]
        for row in ROWS
    }
    result = {
        "what": f"every row trained on {TRAIN:,} pictures, judged on {EVALUATION:,}; int8 ONNX",
        "seeds": arguments.seeds,
        "settings": {row: list(settings) for row, settings in ROWS.items()},
        "rows": {row: summary(found) for row, found in rows.items()},
    }
    write_result(arguments.out, result, before)
    return 0


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Every value over the seeds; mean and deviation of the accuracy."""
    tops = [one["top1"] for one in found]
    return {
        "mean": round(statistics.mean(tops), 2),
        "deviation": round(statistics.stdev(tops), 2) if len(tops) > 1 else 0.0,
        **{key: [one[key] for one in found] for key in found[0]},
    }


if __name__ == "__main__":
    sys.exit(main())
