"""Mixed precision on a model that int8 alone fails: what is raised, what it costs, what runs.

The student of examples/digits, trained, with two channels of its residual stream made 300 times as
large and undone behind it: the same answers in floating point, but one scale for a tensor cannot
hold both kinds of channels, and equalization does not reach through an addition. Converted by the
real command to three formats: int8; int8 with every refinement; and mixed. With --work a folder is
kept, and a plan that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnxruntime
import torch
from ai_edge_litert import schema_py_generated as schema
from safetensors.torch import save_file

from skerry.bench.machine import read_machine, read_now

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples/digits"
FACTOR, GATE = 300.0, 0.5
WAYS = {
    "int8": (),
    "int8 with every refinement": (
        "--set",
        'quantize.refinements=["equalization","adaround","bias_correction"]',
    ),
    "mixed": ("--set", "quantize.mixed={ most = 0.9 }"),
}


def stretched_student(folder: Path) -> None:
    """Write the weights of the trained and stretched student."""
    sys.path.insert(0, str(DIGITS))
    import data
    import train
    from model import student

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = student()
    train.fit(model, *train._tensors(data.train()))
    into, residual, head = model.features[1], model.features[2], model.head
    with torch.no_grad():
        for channel in (0, 1):
            for norm in (into[1], residual.second[1]):
                norm.weight[channel] *= FACTOR
                norm.bias[channel] *= FACTOR
            residual.first[0].weight[:, channel] /= FACTOR
            head.weight[:, channel] /= FACTOR
    save_file(model.state_dict(), folder / "student.safetensors")


def recipe(folder: Path) -> Path:
    text = f"""
[model]
name = "stretched"
[source]
model = "{DIGITS}/model.py:student"
weights = "student.safetensors"
[input.image]
shape = [1, 8, 8]
layout = "nhwc"
dtype = "uint8"
scale = 0.0625
mean = [0.3]
std = [0.375]
[output.scores]
[data]
train = "{DIGITS}/data.py:train"
evaluation = "{DIGITS}/data.py:evaluation"
[quantize]
precisions = ["int8"]
[gate]
accuracy_drop = {GATE}
"""
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def run_by_onnx_runtime(path: Path) -> dict[str, int]:
    """The operators that ONNX Runtime really runs, after its own rewriting."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".run.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    layers = ("Conv", "FusedConv", "Gemm", "QGemm", "QLinearAdd", "QLinearConv", "Add")
    return dict(sorted(Counter(n.op_type for n in nodes if n.op_type in layers).items()))


def layers_of_tflite(path: Path) -> dict[str, int]:
    """Layers of a TFLite file by what they compute in."""
    file = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = file.subgraphs[0]
    operators = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD")
    codes = {getattr(schema.BuiltinOperator, name): name for name in operators}
    types = {schema.TensorType.FLOAT32: "float", schema.TensorType.INT8: "int8"}
    found: Counter[str] = Counter()
    for operator in graph.operators:
        name = codes.get(file.operatorCodes[operator.opcodeIndex].builtinCode)
        if name is not None:
            found[f"{name} {types.get(graph.tensors[operator.inputs[0]].type, 'other')}"] += 1
    return dict(sorted(found.items()))


def convert(path: Path, out: Path, words: tuple[str, ...]) -> dict[str, Any]:
    call = [sys.executable, "-m", "skerry.cli.main", "convert", str(path), "--json"]
    done = subprocess.run([*call, "--out", str(out), *words], stdout=subprocess.PIPE)
    result = json.loads(done.stdout)
    shown = ("bytes", "bytes_ratio", "metric", "metric_drop", "snr_db", "latency_ratio")
    artifacts = {one["name"]: {key: one[key] for key in shown} for one in result["artifacts"]}
    for one in result["artifacts"]:
        if one["format"] == "onnx":
            artifacts[one["name"]]["runs"] = run_by_onnx_runtime(out / one["path"])
        if one["format"] == "tflite":
            artifacts[one["name"]]["layers"] = layers_of_tflite(out / one["path"])
    return {
        "exit_code": done.returncode,
        "source_metric": result["source"]["metric"],
        "artifacts": artifacts,
        "layers": result["mixed"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/mixed_precision.json")
    parser.add_argument("--work", type=Path, help="a folder to keep; by default a temporary one")
    args = parser.parse_args()
    before = read_now()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "student.safetensors").exists():
            stretched_student(work)
        path = recipe(work)
        for number, (name, words) in enumerate(WAYS.items()):
            done = work / f"{number}.json"
            if not done.exists():
                done.write_text(json.dumps(convert(path, work / str(number), words)))
            found[name] = json.loads(done.read_text())
            drops = [one["metric_drop"] for one in found[name]["artifacts"].values()]
            print(f"{name}: exit code {found[name]['exit_code']}, drops {drops}", flush=True)
    checks = {
        "int8 alone fails the gate": found["int8"]["exit_code"] == 3,
        "mixed precision meets it": found["mixed"]["exit_code"] == 0,
    }
    document = {
        "command": "python hw-bench/plans/mixed_precision.py",
        "gate": {"accuracy_drop": GATE},
        "stretched_by": FACTOR,
        "ways": found,
        "checks": checks,
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(read_now()),
    }
    args.out.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(checks, indent=2))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
