"""Reading constants of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["Quantization", "array", "quantization", "scalar", "with_constant"]


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a per-tensor QuantizeLinear or DequantizeLinear does."""

    scale: float
    zero_point: int
    lowest: int
    highest: int


def array(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The constant behind a value, or None where it is computed."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The constant as a number, or None where it is computed or not one number."""
    found = array(value)
    return None if found is None or found.size != 1 else float(found.reshape(()).item())


def quantization(node: ir.Node) -> Quantization | None:
    """The constant per-tensor parameters of a Q or DQ node, or None."""
    if len(node.inputs) < 3:
        return None
    scale, zero_point = scalar(node.inputs[1]), array(node.inputs[2])
    if scale is None or zero_point is None or zero_point.size != 1:
        return None
    limits = np.iinfo(np.dtype(zero_point.dtype.name))
    return Quantization(scale, int(zero_point.reshape(()).item()), limits.min, limits.max)


def with_constant(graph: ir.Graph, name: str, content: NDArray[np.generic]) -> ir.Value:
    """The initializer of that name, added where it is not there yet."""
    if name not in graph.initializers:
        graph.register_initializer(
            ir.Value(
                name=name,
                const_value=ir.tensor(content, name=name),
                type=ir.TensorType(ir.DataType.from_numpy(content.dtype)),
                shape=ir.Shape(content.shape),
            )
        )
    return graph.initializers[name]
