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


WORDS = np.array([["sea", "rock"], ["rock", "skerry"], ["", "Žluťoučký 🪨"]])
_CODES = {"sea": 1.0, "rock": 2.0, "skerry": 3.0}


def codes(words: NDArray[np.str_]) -> NDArray[np.float32]:
    """What `make_text_bundle` gives as `code`: the number of a known word, else -1."""
    found = [_CODES.get(str(word), -1.0) for word in words.ravel()]
    return np.array(found, np.float32).reshape(words.shape)


def make_text_bundle(folder: Path) -> Path:
    """Write a bundle of a model over strings: `words` [n, 2] → `same` [n, 2], `code` [n, 2]."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.onnx"
    encode = helper.make_node(
        "LabelEncoder",
        ["words"],
        ["code"],
        domain="ai.onnx.ml",
        keys_strings=list(_CODES),
        values_floats=list(_CODES.values()),
        default_float=-1.0,
    )
    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["same"]), encode],
        "text",
        [helper.make_tensor_value_info("words", TensorProto.STRING, ["n", 2])],
        [
            helper.make_tensor_value_info("same", TensorProto.STRING, ["n", 2]),
            helper.make_tensor_value_info("code", TensorProto.FLOAT, ["n", 2]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    write_bundle(
        folder,
        model="text",
        version="1",
        inputs=[TensorSpec("words", "str", (-1, 2))],
        outputs=[TensorSpec("same", "str", (-1, 2)), TensorSpec("code", "float32", (-1, 2))],
        artifacts=[
            ArtifactFile(
                path=path,
                format="onnx",
                precision="fp32",
                inputs=("words",),
                outputs=("same", "code"),
                tolerance=Tolerance(atol=0.0),
                golden={"same": WORDS, "code": codes(WORDS)},
            )
        ],
        golden_inputs={"words": WORDS},
    )
    return folder


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
