"""ResNet56 on CIFAR-10 JPEGs, 6, 10 and 20 times smaller: train, convert, measure.

  python hw-bench/plans/cifar_shrink.py train      the teacher, then its students, two side by side,
                                                   by `skerry train`; hours on two cores
  python hw-bench/plans/cifar_shrink.py measure    what `train` left, through `skerry convert`

Both go on where they were stopped. Without a word it measures what is there, and says so where
nothing is. Reads the shared data (SKERRY_DATA), writes JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from _result import write_result

from skerry.bench.machine import read_now

DATA = Path(os.environ.get("SKERRY_DATA", "../shared/data")).resolve()
RECIPES = Path(__file__).resolve().parent / "cifar"
STUDENTS = ("six", "ten", "twenty")
PUBLIC = DATA / "models/resnet-cifar/resnet56-4bfd9763.th"


def command(word: str, recipe: str, out: Path, *settings: str) -> list[str]:
    """`skerry WORD RECIPE`, on the shared data."""
    data = [
        f"data.train={DATA}/cifar10-jpeg/train.tar",
        f"data.evaluation={DATA}/cifar10-jpeg/test.tar",
    ]
    words = [part for one in (*data, *settings) for part in ("--set", one)]
    entry = [str(Path(sys.executable).with_name("skerry")), word]
    return [*entry, str(RECIPES / f"{recipe}.toml"), "--out", str(out), *words]


def train(work: Path, seeds: list[int], jobs: int) -> int:
    """Everything that is trained; students run side by side, each on one thread."""
    teacher = work / "teacher"
    words = command("train", "teacher", teacher, f"source.weights={PUBLIC}")
    if code := subprocess.run(words).returncode:
        return code
    each = [
        command(
            "train",
            name,
            work / f"{name}-{seed}",
            f"build.seed={seed}",
            f"source.weights={teacher}/model/weights.safetensors",
        )
        for seed in seeds
        for name in STUDENTS
    ]
    with ThreadPoolExecutor(jobs) as pool:
        return max(pool.map(lambda words: subprocess.run(words).returncode, each))


def measure(work: Path, seeds: list[int]) -> dict[str, Any]:
    """Every student that was trained, converted and judged; a failed gate is a result too."""
    found: dict[str, Any] = {}
    for name in STUDENTS:
        for seed in seeds:
            trained, out = work / f"{name}-{seed}", work / f"{name}-{seed}-converted"
            if not (trained / "steps.json").is_file():
                continue
            weights = f"source.weights={work}/teacher/model/weights.safetensors"
            subprocess.run(command("convert", name, out, weights, f"step={taken_up(trained)}"))
            result = msgspec.json.decode((out / "result.json").read_bytes())
            found[f"{name}-{seed}"] = {
                "trained": msgspec.json.decode((trained / "steps.json").read_bytes()),
                "source": result["source"],
                "float metric": result["model_metric"],
                "artifacts": result["artifacts"],
            }
    return found


def taken_up(trained: Path) -> str:
    """The step of a recipe that begins and ends with what was trained."""
    start = trained / "model" / "weights.safetensors"
    student = RECIPES / "model.py"
    return f'[{{kind="distill", student="{student}:resnet56", start="{start}", epochs=0}}]'


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", nargs="?", choices=["train", "measure"], default="measure")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="students trained side by side")
    parser.add_argument("--work", type=Path, default=Path("out/cifar"))
    parser.add_argument("--out", type=Path, default=Path("hw-bench/results/cifar_shrink.json"))
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    if arguments.word == "train":
        return train(work, arguments.seeds, arguments.jobs)
    before = read_now()
    found = measure(work, arguments.seeds)
    if not found:
        print("skipped: nothing is trained yet; run it with `train` first")
        return 0
    result = {
        "students": found,
    }
    write_result(arguments.out, result, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
