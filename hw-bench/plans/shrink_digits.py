"""What each step of shrinking gains: scikit-learn's digits, three seeds, int8 by ONNX Runtime.

A teacher is trained, quantized as it is, distilled into a student, pruned, the quantized model
trained, and trained again with the quarter of its layers that int8 alone hurts most in fp16; each
row adds a step to the one before. The same student trained on labels alone shows what the teacher
gives. Writes JSON. Some minutes on two cores; with --work a seed that was done is not done again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from _result import write_result
from torch import nn

from skerry.bench.machine import read_now
from skerry.converter.emit import Signature, emit
from skerry.converter.emit.support import Level
from skerry.converter.graph import Deployable, as_tuple
from skerry.converter.metric import snr_db
from skerry.converter.quantize import QuantizedModel, Scheme, calibrate
from skerry.converter.quantize.alone import alone, sites
from skerry.converter.quantize.qat import Trainable, settled
from skerry.converter.recipe import Input, OutputTensor
from skerry.converter.steps.base import TrainingSet, Workbench, parameters
from skerry.converter.steps.config import Distill, Finetune, Prune, Qat
from skerry.converter.steps.distill import distill
from skerry.converter.steps.finetune import finetune
from skerry.converter.steps.prune import prune
from skerry.converter.steps.qat import train_quantized
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.select import open_engine

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
SPEC = {
    "image": Input(
        shape=(1, 8, 8), layout="nhwc", dtype="uint8", scale=0.0625, mean=(0.3,), std=(0.375,)
    )
}
SIGNATURE = Signature(
    (TensorSpec("image", "uint8", (-1, 8, 8, 1)),), (TensorSpec("scores", "float32", (-1, 10)),)
)
SMALL = {"width": 8, "blocks": 1}
RAISED_SHARE, LOOKED_AT = 0.25, 256


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DIGITS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Rows:
    """One seed's models, and what becomes of them."""

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.nets, data = load("model"), load("data")
        train, self.held = data.train(), data.evaluation()
        self.images = torch.from_numpy(train["image"])
        front = self.deployable(nn.Identity()).front_end()
        self.training = TrainingSet((self.images,), torch.from_numpy(train["label"]), front)

    def deployable(self, model: nn.Module) -> Deployable:
        return Deployable(model, SPEC, {"scores": OutputTensor()}).eval()

    def fresh(self, **size: int) -> nn.Module:
        torch.manual_seed(self.seed)
        return self.nets.DigitNet(**size) if size else self.nets.teacher()

    def bench(self, source: nn.Module) -> Workbench:
        return Workbench(
            source=source,
            training=self.training,
            seed=self.seed,
            factory=lambda *_: self.fresh(**SMALL),
            advance=lambda detail: print(f"seed {self.seed}: {detail}", file=sys.stderr),
        )

    def quantized(
        self, model: nn.Module, raised: tuple[tuple[str, Level], ...] = ()
    ) -> QuantizedModel:
        rows = self.images[torch.randperm(len(self.images), generator=self.generator())[:512]]
        scheme = Scheme(raised=raised)
        return calibrate(self.deployable(model), (self.images[:2],), [(rows,)], scheme)

    @torch.no_grad()
    def worst(self, model: nn.Module, begun: QuantizedModel) -> tuple[tuple[str, Level], ...]:
        """The layers whose rounding alone is heard most in the scores, to be in fp16."""
        rows = self.images[:LOOKED_AT]
        exact = as_tuple(self.deployable(model)(rows))[0].numpy()
        heard = {
            site.layer: snr_db(exact, as_tuple(alone(begun.decided, site, "int8")(rows))[0].numpy())
            for site in sites(begun.decided)
        }
        count = math.ceil(RAISED_SHARE * len(heard))
        return tuple((layer, "fp16") for layer in sorted(heard, key=heard.__getitem__)[:count])

    def trained(
        self, begun: QuantizedModel, teacher: nn.Module, place: Workbench
    ) -> QuantizedModel:
        """The quantized model after training towards the teacher."""
        model = Trainable(begun, scales=True)
        config = Qat(epochs=6, batch=64, learning_rate=1e-3)
        train_quantized(config, model, self.deployable(teacher), place, softmax=False)
        return settled(model, begun)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def measured(self, model: nn.Module, precision: str, source: Any, name: str) -> dict[str, Any]:
        folder = self.work / f"{self.seed}-{name}-{precision}"
        folder.mkdir(parents=True)
        made = emit("onnx", precision, source, (self.images[:2],), SIGNATURE, folder)
        engine = open_engine("onnx", made.path)
        scores = engine.run({"image": self.held["image"]})["scores"]
        engine.close()
        return {
            "top1": 100 * float((scores.argmax(1) == self.held["label"]).mean()),
            "bytes": made.path.stat().st_size,
            "parameters": parameters(model),
        }

    def run(self) -> dict[str, dict[str, Any]]:
        found = {}
        teacher = self.fresh()
        common = {"batch": 64, "learning_rate": 6e-3}
        finetune(Finetune(epochs=12, **common), teacher, self.bench(teacher))
        place = self.bench(teacher)
        found["teacher, fp32"] = self.measured(teacher, "fp32", self.deployable(teacher), "teacher")
        found["PTQ only"] = self.measured(teacher, "int8", self.quantized(teacher), "ptq")
        alone = self.fresh(**SMALL)
        finetune(Finetune(epochs=16, **common), alone, place)
        found["student on labels alone"] = self.measured(
            alone, "int8", self.quantized(alone), "alone"
        )
        student, _ = distill(Distill(student="small", epochs=16, **common), teacher, place)
        found["+ distillation"] = self.measured(
            student, "int8", self.quantized(student), "distilled"
        )
        config = Prune(ratio=0.5, round_to=4, epochs=12, teacher="source", stages=2, **common)
        prune(config, student, place)
        begun = self.quantized(student)
        found["+ pruning"] = self.measured(student, "int8", begun, "pruned")
        aware = self.trained(begun, teacher, place)
        found["+ QAT"] = self.measured(student, "int8", aware, "qat")
        raised = self.worst(student, begun)
        mixed = self.trained(self.quantized(student, raised), teacher, place)
        row = self.measured(student, "int8", mixed, "mixed")
        found["+ mixed precision"] = row | {"raised": [layer for layer, _ in raised]}
        return found


def table(runs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Mean and spread of each row over the seeds."""
    found = {}
    for name in runs[0]:
        tops = [run[name]["top1"] for run in runs]
        found[name] = {
            "top1": [round(one, 2) for one in tops],
            "mean": round(statistics.mean(tops), 2),
            "deviation": round(statistics.stdev(tops), 2) if len(tops) > 1 else 0.0,
            "bytes": [run[name]["bytes"] for run in runs],
            "parameters": [run[name]["parameters"] for run in runs],
        }
        if "raised" in runs[0][name]:
            found[name]["in fp16"] = [run[name]["raised"] for run in runs]
    return found


def seed_run(seed: int, work: Path) -> dict[str, dict[str, Any]]:
    """What `Rows` gives, kept in `work`."""
    kept = work / f"seed-{seed}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            found = Rows(seed, Path(folder)).run()
        kept.write_text(json.dumps(found))
    return json.loads(kept.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("hw-bench/results/shrink_digits.json"))
    parser.add_argument("--work", type=Path, help="a folder to keep; by default a temporary one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        runs = [seed_run(seed, work) for seed in arguments.seeds]
    result = {
        "command": "python hw-bench/plans/shrink_digits.py",
        "data": "scikit-learn digits, 450 held-out scans",
        "seeds": arguments.seeds,
        "rows": table(runs),
    }
    write_result(arguments.out, result, before)


if __name__ == "__main__":
    main()
