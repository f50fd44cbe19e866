"""Choosing by measuring: what each artifact, thread count and execution provider takes here.

    python hw-bench/plans/runtime_choice.py [--out hw-bench/results/runtime_choice.json]

It measures with whatever ONNX Runtime is imported; PYTHONPATH may name a build with an execution
provider of its own, such as an unpacked `onnxruntime-openvino`.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

from _models import conv_bundle  # noqa: E402

from fakes.bundles import make_bundle  # noqa: E402
from skerry.bench.machine import read_machine, read_now  # noqa: E402
from skerry.devices.cpus import usable_cpus  # noqa: E402
from skerry.runtime.engine.select import available_providers  # noqa: E402
from skerry.runtime.measured import Choices  # noqa: E402
from skerry.runtime.power import engine_options  # noqa: E402
from skerry.runtime.prepare import RuntimeOptions  # noqa: E402
from skerry.runtime.runtime import Runtime  # noqa: E402


def chosen(path, work):
    """What is chosen the first time, and how long the first and the second activation take."""
    file = work / "measured.json"
    file.unlink(missing_ok=True)
    engine = engine_options("latency", usable_cpus())
    options = RuntimeOptions(measure=Choices(file), engine=engine)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        runtime = Runtime.open(path, options)
        seconds.append(time.perf_counter() - began)
        info = runtime.info()
        runtime.close()
    (found,) = json.loads(file.read_text()).values()
    threads = found[0]["candidate"][1]["threads"]
    return {
        "chosen": f"{info.artifact} on {info.engine}, threads {threads}",
        "measured, the chosen one first": [
            {
                "artifact": one["candidate"][0],
                "threads": one["candidate"][1]["threads"],
                "providers": one["candidate"][1]["providers"],
                "us": None if one["seconds"] is None else round(1e6 * one["seconds"], 1),
                "problem": one["problem"],
            }
            for one in found
        ],
        "first activation, s": round(seconds[0], 3),
        "second activation, s": round(seconds[1], 3),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_choice.json")
    args = parser.parse_args()
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundles = {
            "one layer, ONNX and TFLite": make_bundle(work / "l", formats=("onnx", "tflite")),
            "55 convolutions on 3x32x32, ONNX": conv_bundle(work / "c", 55, (3, 32, 32)),
            "9 convolutions on 3x96x96, ONNX": conv_bundle(work / "d", 9),
        }
        result = {
            "what": "the choice of artifact, threads and execution provider by measuring",
            "machine": msgspec.to_builtins(read_machine()),
            "execution providers besides the CPU": available_providers(),
            "power mode": "latency",
            "before": msgspec.to_builtins(before),
            "models": {name: chosen(path, work) for name, path in bundles.items()},
            "after": msgspec.to_builtins(read_now()),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
