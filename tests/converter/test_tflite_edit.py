"""Edits of a TFLite file: what is written once may be read often."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from skerry.converter.emit.tflite_edit import plain_names

CHANNELS = 512


def tensor(name: str, scale: float) -> schema.TensorT:
    made = schema.TensorT()
    made.name, made.shape = name.encode(), np.array([CHANNELS], np.int32)
    made.type, made.buffer = schema.TensorType.INT8, 0
    made.quantization = schema.QuantizationParametersT()
    made.quantization.scale = np.full(CHANNELS, scale, np.float32)
    made.quantization.zeroPoint = np.zeros(CHANNELS, np.int64)
    return made


def model(*tensors: schema.TensorT) -> bytes:
    made, graph = schema.ModelT(), schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs = list(tensors), np.array([0]), np.array([1])
    graph.operators = []
    made.version, made.subgraphs, made.buffers = 3, [graph], [schema.BufferT()]
    made.operatorCodes = []
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
