"""Edits of a TFLite flatbuffer that change no computed value but what they are named for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from skerry.devices.errors import UnsupportedError

__all__ = [
    "exact_halves",
    "float_ends",
    "half_weights",
    "linear_layers",
    "plain_names",
    "single_scales",
]

_IDENTIFIER = b"TFL3"
_SMALLEST_HALVED = 32  # elements; below this an operator costs more than it saves


def float_ends(content: bytes) -> bytes:
    """Let a file take and give float32 where the converter left quantized inputs and outputs.

    The converter drops a Quantize at the beginning and a Dequantize at the end; callers would have
    to know scales and zero points. This puts them back.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    graph.inputs, graph.outputs = np.array(graph.inputs), np.array(graph.outputs)
    changed = False
    for position, index in enumerate(graph.outputs):
        if _is_quantized(graph.tensors[index]):
            end = _append_float_twin(graph, index)
            graph.operators.append(_operator(model, "DEQUANTIZE", index, end))
            graph.outputs[position] = end
            _point(model.signatureDefs, "outputs", index, end)
            changed = True
    for position, index in enumerate(graph.inputs):
        if _is_quantized(graph.tensors[index]):
            start = _append_float_twin(graph, index)
            graph.operators.insert(0, _operator(model, "QUANTIZE", start, index))
            graph.inputs[position] = start
            _point(model.signatureDefs, "inputs", index, start)
            changed = True
    return _pack(model) if changed else content


def plain_names(content: bytes) -> bytes:
    """Name the tensors inside `t0`, `t1`, …: the converter names them after modules of ours.

    Inputs and outputs keep their names.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    ends = {int(index) for index in [*graph.inputs, *graph.outputs]}
    for index, tensor in enumerate(graph.tensors):
        if index not in ends:
            tensor.name = f"t{index}".encode()
    return _pack(model)


def linear_layers(content: bytes) -> tuple[tuple[str, int], ...]:
    """Of every fully connected layer: the name of its result, and how long its input is."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    return tuple(
        (
            graph.tensors[operator.outputs[0]].name.decode(),
            int(graph.tensors[operator.inputs[1]].shape[-1]),
        )
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode
        == schema.BuiltinOperator.FULLY_CONNECTED
    )


def single_scales(content: bytes) -> bytes:
    """Let weights and biases of a fully connected layer have one scale, where all are the same."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        read = [graph.tensors[index].quantization for index in operator.inputs[1:] if index >= 0]
        if all(one is not None and _same_everywhere(one) for one in read):
            for one in read:
                one.scale, one.zeroPoint = one.scale[:1], one.zeroPoint[:1]
    return _pack(model)


def _same_everywhere(found: Any) -> bool:
    if found.scale is None or found.zeroPoint is None:
        return False
    return len(set(map(float, found.scale))) == 1 and len(set(map(int, found.zeroPoint))) == 1


def half_weights(content: bytes) -> bytes:
    """Store large float32 constants as float16, each with a Dequantize behind it.

    Raises:
        UnsupportedError: a weight lies beyond float16's range.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    halved = {
        index: _half(values, model.subgraphs[0].tensors[index].name)
        for index, values in _large_floats(model)
    }
    return _store_halved(model, halved) if halved else content


def exact_halves(content: bytes) -> bytes:
    """Store weights of float layers as float16 where that holds them exactly."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    names = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
    codes = {getattr(schema.BuiltinOperator, name) for name in names}
    weights = {
        int(operator.inputs[1])
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode in codes
    }
    halved = {}
    for index, values in _large_floats(model):
        with np.errstate(over="ignore"):
            half = values.astype("<f2")
        if index in weights and np.array_equal(half.astype("<f4"), values):
            halved[index] = half
    return _store_halved(model, halved) if halved else content


def _large_floats(model: Any) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """Every float32 constant that is worth storing in less, by the number of its tensor."""
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        data = model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.FLOAT32 or data is None:
            continue
        values = np.frombuffer(bytes(data), "<f4")
        if values.size >= _SMALLEST_HALVED:
            yield index, values


def _store_halved(model: Any, halved: Mapping[int, np.ndarray[Any, Any]]) -> bytes:
    """Put these float16 values in place of float32 constants, a Dequantize behind each."""
    graph = model.subgraphs[0]
    added = []
    for index, values in halved.items():
        tensor = graph.tensors[index]
        twin = _append_float_twin(graph, index)
        for operator in graph.operators:
            operator.inputs = np.array(
                [twin if read == index else read for read in operator.inputs], np.int32
            )
        model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
        tensor.type = schema.TensorType.FLOAT16
        added.append(_operator(model, "DEQUANTIZE", index, twin))
    graph.operators = added + list(graph.operators)
    return _pack(model)


def _half(values: np.ndarray[Any, Any], name: bytes) -> np.ndarray[Any, Any]:
    if float(np.abs(values).max()) > float(np.finfo(np.float16).max):
        raise UnsupportedError(
            "a weight is beyond the range of float16",
            where=name.decode(errors="replace"),
            remedy="emit this model as fp32",
        )
    return values.astype("<f2")


def _is_quantized(tensor: Any) -> bool:
    has_scale = tensor.quantization is not None and tensor.quantization.scale is not None
    return tensor.type in (schema.TensorType.INT8, schema.TensorType.UINT8) and has_scale


def _append_float_twin(graph: Any, index: int) -> int:
    """Add a float32 tensor of the same shape, which takes over the name; its index."""
    original = graph.tensors[index]
    twin = schema.TensorT()
    twin.name, twin.shape = original.name, original.shape
    twin.shapeSignature = original.shapeSignature
    twin.type, twin.buffer, twin.hasRank = schema.TensorType.FLOAT32, 0, original.hasRank
    original.name = original.name + b"_stored"
    graph.tensors.append(twin)
    return len(graph.tensors) - 1


def _operator(model: Any, name: str, source: int, target: int) -> Any:
    code = getattr(schema.BuiltinOperator, name)
    known = [entry.builtinCode for entry in model.operatorCodes]
    if code not in known:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, code, 3
        model.operatorCodes.append(entry)
        known.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = known.index(code)
    operator.inputs = np.array([source], np.int32)
    operator.outputs = np.array([target], np.int32)
    return operator


def _point(signatures: Any, ends: str, old: int, new: int) -> None:
    for signature in signatures or []:
        for entry in getattr(signature, ends):
            if entry.tensorIndex == old:
                entry.tensorIndex = new


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no types
    """Writes equal vectors once: the zero points of every layer are as many zeros."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray[Any, Any]) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def _pack(model: Any) -> bytes:
    builder = _SharingBuilder(1024)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())
