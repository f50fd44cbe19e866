"""What was pruned is smaller in every file: parameters, bytes and multiply-adds."""

from math import prod
from pathlib import Path

import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from coremltools.proto import Model_pb2
from onnx import numpy_helper, shape_inference
from torch import nn

from fakes.networks import RESIDUAL_SIGNATURE, pictures, residual
from skerry.converter.coreml_exec.graph import Reference, read_function
from skerry.converter.coreml_exec.package import Package
from skerry.converter.emit import emit
from skerry.converter.quantize import calibrate
from skerry.converter.steps.base import TrainingSet, Workbench, parameters
from skerry.converter.steps.config import Prune
from skerry.converter.steps.prune import prune


def onnx_multiply_adds(path: Path) -> int:
    """Of one row: what a layer gives, times the inputs of its weight."""
    model = shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    weights = {one.name: numpy_helper.to_array(one).shape for one in model.graph.initializer}
    shapes = {
        one.name: [axis.dim_value for axis in one.type.tensor_type.shape.dim]
        for one in (*model.graph.value_info, *model.graph.output)
    }
    total = 0
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
        elif node.op_type == "Conv":
            total += prod(shapes[node.output[0]][2:]) * prod(weights[node.input[1]])
        elif node.op_type in {"Gemm", "MatMul"}:
            total += prod(weights[node.input[1]])
    return total


def tflite_multiply_adds(path: Path) -> int:
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph, total = model.subgraphs[0], 0
    kinds = schema.BuiltinOperator
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        if kind in {kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED}:
            weight, out = (
                [int(length) for length in graph.tensors[index].shape]
                for index in (operator.inputs[1], operator.outputs[0])
            )
            positions = 1 if kind == kinds.FULLY_CONNECTED else prod(out[1:3])
            total += positions * prod(weight)
    return total


def coreml_multiply_adds(path: Path) -> int:
    model, package = Model_pb2.Model(), Package(path)
    model.ParseFromString(package.specification())
    block = read_function(model.mlProgram.functions["main"], package, 10**6)
    named = [one for operation in block.operations for one in operation.outputs]
    shapes = {one.name: one.type.shape for one in named if one.type is not None}
    total = 0
    for operation in block.operations:
        if operation.kind in {"conv", "linear"}:
            (weight,) = operation.arguments["weight"]
            assert isinstance(weight, Reference)
            out = shapes[operation.outputs[0].name]
            positions = prod(out[2:]) if operation.kind == "conv" else 1
            total += positions * prod(shapes[weight.name])
    return total


_COUNTS = {
    "onnx": onnx_multiply_adds,
    "tflite": tflite_multiply_adds,
    "coreml": coreml_multiply_adds,
}


def multiply_adds(model: nn.Module) -> int:
    """As the layers themselves say, for one picture."""
    total = []

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        positions = prod(out.shape[2:]) if out.ndim == 4 else 1
        total.append(positions * layer.weight.numel())

    watched = [
        layer.register_forward_hook(count)
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model(pictures(1, 0))
    for one in watched:
        one.remove()
    return sum(total)


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
    counts = {"whole": multiply_adds(whole), "small": multiply_adds(small)}
    assert counts["small"] < 0.5 * counts["whole"]
    quantized = {
        name: calibrate(model, (rows[:2],), [(rows,)])
        for name, model in (("whole", whole), ("small", small))
    }
    for form, count in _COUNTS.items():
        bytes_of = {}
        for name, model in quantized.items():
            folder = tmp_path / f"{form}-{name}"
            folder.mkdir()
            made = emit(form, "int8", model, (rows[:2],), RESIDUAL_SIGNATURE, folder)
            assert count(made.path) == counts[name], (form, name)
            files = [made.path, *made.path.rglob("*")]
            bytes_of[name] = sum(one.stat().st_size for one in files if one.is_file())
        assert bytes_of["small"] < bytes_of["whole"], form
