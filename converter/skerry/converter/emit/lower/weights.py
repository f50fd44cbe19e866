"""Which initializers of an ONNX graph are weights, and by which axes they are scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["SMALLEST", "Weight", "integers", "weights"]

SMALLEST = 64  # elements; below this scales and operators cost more than integers save

# Operator → position of its weights → the axes that keep a scale of their own.
_KEPT: dict[str, dict[int, tuple[int, ...]]] = {
    "Conv": {1: (0,)},
    "ConvTranspose": {1: (1,)},
    "GRU": {1: (0, 1), 2: (0, 1)},
    "Gather": {0: (0,)},
    "LSTM": {1: (0, 1), 2: (0, 1)},
    "RNN": {1: (0, 1), 2: (0, 1)},
}


@dataclass(frozen=True, slots=True)
class Weight:
    """A float32 constant that one layer multiplies with.

    Attributes:
        node, position: who reads it, and as which input.
        value: the initializer.
        kept: the axes that keep a scale of their own.
    """

    node: ir.Node
    position: int
    value: ir.Value
    kept: tuple[int, ...]


def weights(graph: ir.Graph) -> tuple[Weight, ...]:
    """Every weight worth storing as integers; one that several nodes read is left alone."""
    found = []
    for node in graph:
        for position, kept in _positions(node).items():
            value = node.inputs[position] if position < len(node.inputs) else None
            if value is None or value.const_value is None or len(value.uses()) != 1:
                continue
            tensor = value.const_value
            if tensor.dtype == ir.DataType.FLOAT and tensor.size >= SMALLEST:
                found.append(Weight(node, position, value, kept))
    return tuple(found)


def _positions(node: ir.Node) -> dict[int, tuple[int, ...]]:
    if node.op_type == "Gemm":
        transposed = node.attributes.get_int("transB", 0)
        return {1: (0,) if transposed else (1,)}
    if node.op_type == "MatMul":
        value = node.inputs[1]
        shape = value.shape if value is not None else None
        return {1: (len(shape) - 1,)} if shape is not None and len(shape) >= 2 else {}
    return _KEPT.get(node.op_type, {})


def integers(
    weight: NDArray[np.float32], kept: tuple[int, ...], limit: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The symmetric integers -limit..limit that a weight stands for, and their scales.

    The scales keep all axes, with length 1 where they are shared.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis not in kept)
    scale = np.abs(weight).max(axis=others, keepdims=True) / np.float32(limit)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    stored = np.clip(np.round(weight / scale), -limit, limit).astype(np.int8)
    return stored, scale
