"""What was pruned is smaller in every file: parameters, bytes and multiply-adds."""

from math import prod
from pathlib import Path

import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from coremltools.proto import Model_pb2
from onnx import numpy_helper, shape_inference
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fakes.networks import RESIDUAL_SIGNATURE, pictures, residual
from skerry.converter.coreml_exec.graph import Reference, read_function
from skerry.converter.coreml_exec.package import Package
from skerry.converter.emit import Signature, emit
from skerry.converter.proof import open_runner
from skerry.converter.quantize import calibrate
from skerry.converter.steps.base import TrainingSet, Workbench, parameters
from skerry.converter.steps.config import Finetune, Prune
from skerry.converter.steps.finetune import finetune
from skerry.converter.steps.prune import prune
from skerry.runtime.bundle.card import TensorSpec


def onnx_multiply_adds(path: Path) -> int:
    """Of one row: what a layer gives, times how many numbers each of that is summed over."""
    model = onnx.load(path)
    for axis in (axis for one in model.graph.input for axis in one.type.tensor_type.shape.dim):
        axis.dim_value = axis.dim_value or 1
    del model.graph.value_info[:]
    model = shape_inference.infer_shapes(model, data_prop=True)
    weights = {one.name: numpy_helper.to_array(one).shape for one in model.graph.initializer}
    graph = model.graph
    shapes = {
        one.name: [axis.dim_value for axis in one.type.tensor_type.shape.dim]
        for one in (*graph.value_info, *graph.output, *graph.input)
    }
    total = 0
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
        elif node.op_type == "Conv":
            total += prod(shapes[node.output[0]][2:]) * prod(weights[node.input[1]])
        elif node.op_type in {"Gemm", "MatMul"}:
            total += prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


def tflite_multiply_adds(path: Path) -> int:
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph, total = model.subgraphs[0], 0
    kinds = schema.BuiltinOperator
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        first, second, out = (
            (
                [int(length) for length in graph.tensors[index].shape]
                for index in (*operator.inputs[:2], operator.outputs[0])
            )
            if len(operator.inputs) > 1
            else ([], [], [])
        )
        if kind in {kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D}:
            total += prod(out[1:3]) * prod(second)
        elif kind in {kinds.FULLY_CONNECTED, kinds.BATCH_MATMUL}:
            total += prod(out) * first[-1]
    return total


def coreml_multiply_adds(path: Path) -> int:
    model, package = Model_pb2.Model(), Package(path)
    model.ParseFromString(package.specification())
    block = read_function(model.mlProgram.functions["main"], package, 10**6)
    named = [one for operation in block.operations for one in operation.outputs]
    shapes = {one.name: one.type.shape for one in named if one.type is not None}
    total = 0
    for operation in block.operations:
        kind = operation.kind
        if kind in {"conv", "linear", "matmul"}:
            (one,) = operation.arguments["x" if kind == "matmul" else "weight"]
            assert isinstance(one, Reference)
            out, shape = shapes[operation.outputs[0].name], shapes[one.name]
            if kind == "conv":
                total += prod(out[2:]) * prod(shape)
            else:
                total += prod(out) * shape[-1]
    return total


_COUNTS = {
    "onnx": onnx_multiply_adds,
    "tflite": tflite_multiply_adds,
    "coreml": coreml_multiply_adds,
}


def multiply_adds(model: nn.Module, rows: Tensor) -> int:
    """As torch counts them, for one row; with gradients, so that no attention is one operation."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(rows[:1])
    return counter.get_total_flops() // 2


def bytes_of(path: Path) -> int:
    files = [path, *path.rglob("*")]
    return sum(one.stat().st_size for one in files if one.is_file())


@pytest.mark.slow
def test_a_pruned_model_is_smaller_in_every_file(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rows = pictures(32, 0)
    whole, small = residual(), residual()
    bench = Workbench(
        source=whole,
        training=TrainingSet((rows,), torch.arange(32) % 10),
        seed=0,
        factory=lambda name, weights: whole,
        advance=lambda detail: None,
    )
    prune(Prune(ratio=0.5, round_to=2, epochs=0), small, bench)
    assert parameters(small) < 0.5 * parameters(whole)
    counts = {"whole": multiply_adds(whole, rows), "small": multiply_adds(small, rows)}
    assert counts["small"] < 0.5 * counts["whole"]
    quantized = {
        name: calibrate(model, (rows[:2],), [(rows,)])
        for name, model in (("whole", whole), ("small", small))
    }
    for form, count in _COUNTS.items():
        sizes = {}
        for name, model in quantized.items():
            folder = tmp_path / f"{form}-{name}"
            folder.mkdir()
            made = emit(form, "int8", model, (rows[:2],), RESIDUAL_SIGNATURE, folder)
            assert count(made.path) == counts[name], (form, name)
            sizes[name] = bytes_of(made.path)
        assert sizes["small"] < sizes["whole"], form


class Attention(nn.Module):
    """Written with layers, a reshape and torch's attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.inner = heads, width
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], x.shape[1], self.heads, self.inner // self.heads)
        parts = [one.reshape(shape).transpose(1, 2) for one in self.project(x).chunk(3, -1)]
        seen = functional.scaled_dot_product_attention(*parts)
        return self.join(seen.transpose(1, 2).flatten(2))


class Own(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x, need_weights=False)[0]


class Transformer(nn.Module):
    """float32 [n, 8, 8] → [n, 10], with torch's own attention and one written out."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(0.1 * torch.randn(8, width))
        self.attentions = nn.ModuleList([Own(width, heads), Attention(width, heads)])
        self.ups = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.answer = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        for number, attention in enumerate(self.attentions):
            x = x + attention(self.norms[2 * number](x))
            y = torch.relu(self.ups[number](self.norms[2 * number + 1](x)))
            x = x + self.downs[number](y)
        return self.answer(x.mean(1))


@pytest.mark.slow
def test_a_transformer_without_half_its_heads_is_smaller_in_every_file(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    rows = torch.from_numpy(load_digits().images).float() / 16
    labels = torch.from_numpy(load_digits().target).long()
    learned, held = slice(0, 1400), slice(1400, 1797)
    whole, small = Transformer(), Transformer()
    bench = Workbench(
        source=whole,
        training=TrainingSet((rows[learned],), labels[learned]),
        seed=7,
        factory=lambda name, weights: whole,
        advance=lambda detail: None,
    )
    finetune(Finetune(epochs=10, batch=64), whole, bench)
    small.load_state_dict(whole.state_dict())
    pruned = prune(Prune(ratio=0.5, round_to=8, epochs=12, batch=64), small, bench)
    assert not pruned.whole
    assert pruned.kept["attentions.0.attend.query"] == pruned.kept["attentions.1.project"] == 0.5
    assert small.attentions[1].heads == 2 and small.attentions[1].inner == 32
    with torch.no_grad():
        points = [
            float((one(rows[held]).argmax(1) == labels[held]).float().mean())
            for one in (whole, small)
        ]
        wanted = small(rows[held])
    print(f"before {points[0]:.3f}, after {points[1]:.3f}")
    assert points[0] > 0.85 and points[1] > points[0] - 0.1
    models = {"whole": whole, "small": small}
    assert parameters(small) < 0.5 * parameters(whole)
    counts = {name: multiply_adds(model, rows) for name, model in models.items()}
    assert counts["small"] < 0.5 * counts["whole"]
    signature = Signature(
        (TensorSpec("x", "float32", (-1, 8, 8)),), (TensorSpec("scores", "float32", (-1, 10)),)
    )
    for form, count in _COUNTS.items():
        sizes = {}
        for name, model in models.items():
            made = emit(form, "int8-weights", model, (rows[:2],), signature, tmp_path / name)
            assert count(made.path) == counts[name], (form, name)
            sizes[name] = bytes_of(made.path)
        assert sizes["small"] < 0.7 * sizes["whole"], form
        runner = open_runner(made, ("x",), ("scores",))
        found = torch.from_numpy(runner({"x": rows[held].numpy()})["scores"])
        runner.engine.close()
        assert float(functional.cosine_similarity(found, wanted).min()) > 0.995, form
