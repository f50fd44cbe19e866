"""Small bundles, written for real: one linear layer as ONNX, and as TFLite where asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from skerry.runtime.bundle.card import Format, TensorSpec, Tolerance
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle

WEIGHT = (np.arange(12).reshape(3, 4) / 8 - 0.5).astype(np.float32)
BIAS = np.array([0.0, 0.5, -0.5], np.float32)
_TFLITE = Path(__file__).parent.parent / "runtime" / "data" / "linear.tflite"


def linear(x: NDArray[Any], bias: NDArray[Any] = BIAS) -> NDArray[Any]:
    """What every artifact of `make_bundle` computes: `x @ WEIGHT.T + bias`."""
    return (x @ WEIGHT.T + bias).astype(np.float32)


def make_onnx(path: Path, bias: NDArray[Any] = BIAS, rows: int | str = "n") -> Path:
    """An ONNX file of `linear`, input `in` [rows, 4], output `out` [rows, 3]."""
    node = helper.make_node("Gemm", ["in", "w", "b"], ["out"], transB=1)
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [rows, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [rows, 3])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="test"
    )
    onnx.save(model, path)
    return path


def make_bundle(
    folder: Path,
    *,
    model: str = "linear",
    version: str = "1",
    shift: float = 0.0,
    formats: tuple[Format, ...] = ("onnx",),
    golden_error: float = 0.0,
    golden_rows: int = 8,
) -> Path:
    """Write a bundle of `linear` with `shift` added to the bias (ONNX alone)."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    bias = BIAS + np.float32(shift)
    x = np.random.default_rng(0).normal(size=(golden_rows, 4)).astype(np.float32)
    artifacts = []
    for form in formats:
        path, names = _TFLITE, (("args_0",), ("output_0",))
        if form == "onnx":
            path = make_onnx(folder.parent / f".{folder.name}.{version}.onnx", bias)
            names = (("in",), ("out",))
        artifacts.append(
            ArtifactFile(
                path=path,
                format=form,
                precision="fp32",
                inputs=names[0],
                outputs=names[1],
                tolerance=Tolerance(atol=1e-4, argmax=1.0),
                golden={"y": linear(x, bias) + np.float32(golden_error)},
            )
        )
    write_bundle(
        folder,
        model=model,
        version=version,
        inputs=[TensorSpec("x", "float32", (-1, 4))],
        outputs=[TensorSpec("y", "float32", (-1, 3))],
        artifacts=artifacts,
        golden_inputs={"x": x},
        labels=["a", "b", "c"],
        documents={"report.html": b"<p>report</p>"},
    )
    return folder
