"""ONNX of a scikit-learn estimator: the graph that skl2onnx made, with the signature's names."""

from __future__ import annotations

from pathlib import Path

import onnx

from skerry.converter.emit.artifact import Emitted, Signature
from skerry.converter.emit.inputs import prepared_path
from skerry.converter.source.estimator import Estimator
from skerry.devices.files import write_atomically

__all__ = ["emit_estimator"]


def emit_estimator(model: Estimator, signature: Signature, folder: Path) -> Emitted:
    """Write `model-fp32.onnx`. It gives scores alone; the class number is their argmax."""
    proto = onnx.ModelProto.FromString(model.graph.numpy().tobytes())
    graph = proto.graph
    ((given,), (answer,)) = (signature.input_names, signature.output_names)
    scores = graph.output[-1].name  # of a classifier the first is the label
    _rename(graph, {graph.input[0].name: given, scores: answer})
    kept = [one for one in graph.output if one.name == answer]
    del graph.output[:]
    graph.output.extend(kept)
    _drop_dead(graph, answer)
    proto.doc_string = graph.doc_string = ""
    path = prepared_path(folder, "fp32", ".onnx")
    write_atomically(path, proto.SerializeToString(deterministic=True))
    return Emitted(path, "onnx", "fp32", signature.inputs, signature.outputs)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in [*graph.input, *graph.output]:
        value.name = names.get(value.name, value.name)


def _drop_dead(graph: onnx.GraphProto, answer: str) -> None:
    """Remove what nothing reads: the road to the label."""
    read = {answer}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    constants = [one for one in graph.initializer if one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(constants)
