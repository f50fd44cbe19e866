"""Edits of a TFLite file: what is written once may be read often."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from skerry.converter.emit.tflite_edit import plain_names, single_scales

CHANNELS = 512


def tensor(name: str, scale: float) -> schema.TensorT:
    made = schema.TensorT()
    made.name, made.shape = name.encode(), np.array([CHANNELS], np.int32)
    made.type, made.buffer = schema.TensorType.INT8, 0
    made.quantization = schema.QuantizationParametersT()
    made.quantization.scale = np.full(CHANNELS, scale, np.float32)
    made.quantization.zeroPoint = np.zeros(CHANNELS, np.int64)
    return made


def operator(inputs: list[int], outputs: list[int]) -> schema.OperatorT:
    made = schema.OperatorT()
    made.opcodeIndex = 0
    made.inputs, made.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    return made


def scale_counts(content: bytes) -> list[int]:
    found = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].tensors
    return [len(one.quantization.scale) for one in found]


def model(*tensors: schema.TensorT, operators: tuple[schema.OperatorT, ...] = ()) -> bytes:
    made, graph = schema.ModelT(), schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs = list(tensors), np.array([0]), np.array([1])
    graph.operators = list(operators)
    made.version, made.subgraphs, made.buffers = 3, [graph], [schema.BufferT()]
    linear = schema.OperatorCodeT()
    linear.builtinCode = linear.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    made.operatorCodes = [linear]
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_equal_vectors_are_written_once_and_read_everywhere() -> None:
    content = model(*[tensor(name, 0.5 + number) for number, name in enumerate("abcd")])
    smaller = plain_names(content)
    assert len(content) - len(smaller) >= 3 * 8 * CHANNELS
    found = schema.ModelT.InitFromPackedBuf(smaller, 0).subgraphs[0].tensors
    assert [one.quantization.scale[-1] for one in found] == [0.5, 1.5, 2.5, 3.5]
    assert all(not one.quantization.zeroPoint.any() for one in found)
    assert all(len(one.quantization.zeroPoint) == CHANNELS for one in found)
    assert plain_names(smaller) == smaller


def test_equal_scales_of_a_linear_layer_become_one() -> None:
    uneven = tensor("uneven", 0.5)
    uneven.quantization.scale[7] = 0.25
    parts = [tensor("x", 1.0), tensor("y", 1.0), tensor("w", 0.5), tensor("b", 0.5), uneven]
    layers = [operator([0, 2, 3], [1]), operator([0, 4, 3], [1]), operator([0, 4, -1], [1])]
    assert scale_counts(single_scales(model(*parts, operators=tuple(layers[1:])))) == [CHANNELS] * 5
    found = scale_counts(single_scales(model(*parts, operators=tuple(layers[:1]))))
    assert found == [CHANNELS, CHANNELS, 1, 1, CHANNELS]
