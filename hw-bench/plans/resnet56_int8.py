"""ResNet56 on CIFAR-10 JPEGs, int8 after training: all three artifacts against fp32 and a peer.

Reads the shared data (SKERRY_DATA), writes JSON. The peer is ONNX Runtime's own `quantize_static`
on the same model and the same calibration images. Latencies are of pairs run in turn, one thread.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from _cifar import Pictures, load_images, public
from _result import write_result
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from skerry.bench.machine import read_now
from skerry.bench.stats import paired_ratio
from skerry.converter.coreml_exec import MilProgram
from skerry.converter.emit import Signature, emit
from skerry.converter.quantize import REFINEMENTS, Scheme, calibrate
from skerry.runtime.bundle.card import TensorSpec

CALIBRATION, BATCH, ROUNDS, CALLS = 512, 64, 60, 10
LIMITS = {
    "onnx bytes / fp32": 0.28,
    "onnx latency / fp32": 0.50,
    "onnx latency / quantize_static": 1.03,
    "tflite latency / fp32": 0.45,
    "accuracy drop, points": 0.3,
    "onnx below quantize_static, points": 0.0,
    "onnx layers not in integer kernels": 0,
    "tflite layers not in XNNPACK": 0,
    "MIL executor / PyTorch": 20.0,
    "conversion, seconds": 120.0,
    "conversion, peak GiB": 4.0,
}
FLOAT_KINDS = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
THREADS = 2  # of the conversion; everything that is timed against something else runs on one
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Reader(CalibrationDataReader):
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._rows: Iterator[NDArray[np.uint8]] = iter(
            images[i : i + BATCH] for i in range(0, len(images), BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._rows, None)
        return None if batch is None else {"image": batch}


def peer(fp32: Path, images: NDArray[np.uint8], out: Path) -> Path:
    """What ONNX Runtime's own tool makes of the same float model."""
    model = onnx.load(fp32)
    for tensor in model.graph.initializer:  # it fails on a Gemm whose bias is [1, n]
        if len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]
    onnx.save(model, out.with_suffix(".in.onnx"))
    quantize_static(
        out.with_suffix(".in.onnx"),
        out,
        Reader(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return out


def onnx_run(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"image": rows})[0]


def tflite_run(path: Path) -> Run:
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def run(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        results = []
        for row in rows:
            interpreter.set_tensor(source, row[None])
            interpreter.invoke()
            results.append(interpreter.get_tensor(target))
        return np.concatenate(results)

    return run


def coreml_run(path: Path) -> Run:
    program = MilProgram.load(path)
    return lambda rows: program.run({"image": rows.astype(np.int32)})["scores"]


RUNNERS = {"onnx": onnx_run, "tflite": tflite_run, "coreml": coreml_run}


def float_onnx_layers(path: Path, work: Path) -> int:
    """Convolutions and linear layers that ONNX Runtime runs in float once it has optimized."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(work / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(work / "optimized.onnx").graph.node]
    return sum(kind in FLOAT_KINDS for kind in kinds)


def layers_outside_xnnpack(path: Path) -> int:
    """Convolutions and linear layers whose weights no delegate of LiteRT reads."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    operators = interpreter._get_ops_details()
    taken = {i for one in operators if one["op_name"] == "DELEGATE" for i in one["inputs"]}
    layers = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    return sum(one["op_name"] in layers and one["inputs"][1] not in taken for one in operators)


def torch_run(model: nn.Module) -> Run:
    def run(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return model(torch.from_numpy(rows)).numpy()

    return run


def size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def accuracy(run: Run, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    answers = [run(images[i : i + 256]).argmax(1) for i in range(0, len(images), 256)]
    return float(100 * (np.concatenate(answers) == labels).mean())


def latencies(first: Run, second: Run, image: NDArray[np.uint8]) -> dict[str, Any]:
    """Seconds for one image, each the best of a few calls, the two in turn."""
    taken = np.zeros((2, ROUNDS))
    for run in (first, second):
        for _ in range(20):
            run(image)
    for turn in range(ROUNDS):
        for which, run in enumerate((first, second)):
            each = []
            for _ in range(CALLS):
                begin = time.perf_counter()
                run(image)
                each.append(time.perf_counter() - begin)
            taken[which, turn] = min(each)
    return {
        "ms": [round(float(np.median(row)) * 1e3, 4) for row in taken],
        "ratio": msgspec.to_builtins(paired_ratio(taken[0], taken[1])),
    }


def convert(
    arguments: argparse.Namespace, model: nn.Module, calibration: NDArray[np.uint8]
) -> tuple[dict[str, Path], dict[str, float]]:
    """Every format as fp32 and int8, by name, and what making them cost."""
    scheme = Scheme(calibrator=arguments.calibrator, refinements=tuple(arguments.refine))
    example = (torch.from_numpy(calibration[:2]),)
    batches = [
        (torch.from_numpy(calibration[i : i + BATCH]),) for i in range(0, CALIBRATION, BATCH)
    ]
    signature = Signature(
        (TensorSpec("image", "uint8", (-1, 32, 32, 3)),),
        (TensorSpec("scores", "float32", (-1, 10)),),
    )
    torch.set_num_threads(THREADS)
    begin = time.perf_counter()
    sources = {"fp32": model, "int8": calibrate(model, example, batches, scheme)}
    paths = {
        f"{fmt}-{precision}": emit(fmt, precision, source, example, signature, arguments.work).path
        for fmt in RUNNERS
        for precision, source in sources.items()
    }
    seconds = time.perf_counter() - begin
    torch.set_num_threads(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return paths, {"conversion, seconds": seconds, "conversion, peak GiB": peak}


def paced(
    runs: dict[str, Run], model: nn.Module, image: NDArray[np.uint8]
) -> dict[str, dict[str, Any]]:
    """The pairs whose latencies are limited."""
    return {
        "onnx latency / fp32": latencies(runs["onnx-int8"], runs["onnx-fp32"], image),
        "onnx latency / quantize_static": latencies(
            runs["onnx-int8"], runs["onnx-quantize_static"], image
        ),
        "tflite latency / fp32": latencies(runs["tflite-int8"], runs["tflite-fp32"], image),
        "MIL executor / PyTorch": latencies(runs["coreml-fp32"], torch_run(model), image),
    }


def compared(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Bytes and points of the artifacts against each other."""
    tops = {name: one["top1"] for name, one in found.items()}
    return {
        "onnx bytes / fp32": found["onnx-int8"]["bytes"] / found["onnx-fp32"]["bytes"],
        "accuracy drop, points": max(tops["onnx-fp32"] - tops[f"{fmt}-int8"] for fmt in RUNNERS),
        "onnx below quantize_static, points": tops["onnx-quantize_static"] - tops["onnx-int8"],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    model = Pictures(public(arguments.depth)).eval()
    calibration, _ = load_images("train", CALIBRATION)
    images, labels = load_images("test", arguments.images)
    paths, values = convert(arguments, model, calibration)
    paths["onnx-quantize_static"] = peer(
        paths["onnx-fp32"], calibration, arguments.work / "peer.onnx"
    )
    runs = {name: RUNNERS[name.split("-")[0]](path) for name, path in paths.items()}
    found = {
        name: {"bytes": size(paths[name]), "top1": accuracy(run, images, labels)}
        for name, run in runs.items()
    }
    pairs = paced(runs, model, images[:1])
    values |= {name: pair["ratio"]["value"] for name, pair in pairs.items()}
    values |= compared(found) | {
        "onnx layers not in integer kernels": float_onnx_layers(paths["onnx-int8"], arguments.work),
        "tflite layers not in XNNPACK": layers_outside_xnnpack(paths["tflite-int8"]),
    }
    return {
        "model": f"ResNet{arguments.depth}",
        "calibrator": arguments.calibrator,
        "refinements": arguments.refine,
        "images": len(images),
        "artifacts": found,
        "latency": pairs,
        "checks": {
            name: {"limit": limit, "value": round(values[name], 4), "met": values[name] <= limit}
            for name, limit in LIMITS.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--images", type=int, default=None, help="of the test set; all by default")
    parser.add_argument("--calibrator", default="mse")
    parser.add_argument(
        "--refine", nargs="*", choices=REFINEMENTS, default=["adaround", "bias_correction"]
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "skerry-resnet")
    parser.add_argument("--out", type=Path, default=Path("hw-bench/results/resnet56_int8.json"))
    arguments = parser.parse_args()
    before = read_now()
    result = measure(arguments)
    write_result(arguments.out, result, before)


if __name__ == "__main__":
    main()
