"""Recurrent layers, embeddings and attention, where activations stay in floating point."""

import numpy as np
import pytest
import torch
from torch import nn

from skerry.converter.coreml_exec import MilProgram
from skerry.converter.emit import Signature, emit
from skerry.runtime.bundle.card import TensorSpec

onnxruntime = pytest.importorskip("onnxruntime")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")

_OUTPUT = (TensorSpec("y", "float32", (-1, 4)),)


class _Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(100, 64)
        self.layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        return self.head(self.layer(self.words(x)).mean(1))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def _case(kind):
    torch.manual_seed(0)
    if kind is _Recurrent:
        return kind().eval(), torch.randn(3, 12, 8), TensorSpec("x", "float32", (-1, 12, 8))
    return kind().eval(), torch.randint(0, 100, (3, 12)), TensorSpec("x", "int64", (-1, 12))


def _run(artifact, rows):
    spec = artifact.inputs[0]
    if artifact.format == "onnx":
        return onnxruntime.InferenceSession(str(artifact.path)).run(None, {"x": rows})[0]
    if artifact.format == "tflite":
        runner = interpreter.Interpreter(str(artifact.path)).get_signature_runner()
        each = [runner(x=row[None].astype(spec.dtype))["y"].copy() for row in rows]
        return np.concatenate(each)
    return MilProgram.load(artifact.path).run({"x": rows.astype(spec.dtype)})["y"]


def test_large_recurrent_weights_are_stored_as_integers(tmp_path):
    torch.manual_seed(0)
    layer = nn.LSTM(8, 64, batch_first=True)
    module, x = nn.Sequential(layer, _Last()).eval(), torch.randn(3, 12, 8)
    signature = Signature(
        (TensorSpec("x", "float32", (-1, 12, 8)),), (TensorSpec("y", "float32", (-1, 64)),)
    )
    artifact = emit("onnx", "int8-weights", module, (x,), signature, tmp_path)
    weights = sum(weight.numel() for weight in layer.parameters())
    assert artifact.path.stat().st_size < 1.5 * weights
    with torch.no_grad():
        expected = module(x).numpy()
    assert np.abs(_run(artifact, x.numpy()) - expected).max() < 0.01


class _Last(nn.Module):
    def forward(self, found):
        return found[0][:, -1]


@pytest.mark.parametrize("precision", ["fp32", "int8-weights"])
@pytest.mark.parametrize("fmt", ["onnx", "tflite", "coreml"])
@pytest.mark.parametrize("kind", [_Recurrent, _Attention])
def test_a_sequence_model_answers_like_its_source(kind, fmt, precision, tmp_path):
    module, rows, spec = _case(kind)
    artifact = emit(fmt, precision, module, (rows,), Signature((spec,), _OUTPUT), tmp_path)
    if spec.dtype == "int64":
        assert artifact.inputs[0].dtype == ("int64" if fmt == "onnx" else "int32")
    with torch.no_grad():
        expected = module(rows).numpy()
    cosine = (artifact_rows := _run(artifact, rows.numpy())).ravel() @ expected.ravel()
    cosine /= np.linalg.norm(artifact_rows) * np.linalg.norm(expected)
    assert cosine > (0.99999 if precision == "fp32" else 0.999)
