"""Store large float32 constants as float16, each with a Cast back behind it.

Engines fold the Cast when they load the file: half the bytes, the speed of float32, and the
rounding of the weights alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from skerry.devices.errors import UnsupportedError

__all__ = ["Halve", "apply", "find", "find_exact"]

_SMALLEST = 32  # elements; below this a Cast node costs more than it saves
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Halve:
    """Store this initializer as float16."""

    value: ir.Value


def find(graph: ir.Graph) -> tuple[Halve, ...]:
    """Every constant worth storing so. Changes nothing.

    Raises:
        UnsupportedError: a weight lies beyond float16's range.
    """
    found = []
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALLEST:
            continue
        if float(np.abs(tensor.numpy()).max()) > _LARGEST_HALF:
            raise UnsupportedError(
                "a weight is beyond the range of float16",
                where=value.name,
                remedy="emit this model as fp32",
            )
        found.append(Halve(value))
    return tuple(found)


def find_exact(graph: ir.Graph) -> tuple[Halve, ...]:
    """Every weight of a layer worth storing so that float16 holds exactly. Changes nothing."""
    found = []
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALLEST:
            continue
        uses = list(value.uses())
        if not uses or any(use.idx != 1 or use.node.op_type not in _LAYERS for use in uses):
            continue
        exact = tensor.numpy()
        with np.errstate(over="ignore"):
            if np.array_equal(exact.astype(np.float16).astype(np.float32), exact):
                found.append(Halve(value))
    return tuple(found)


def apply(graph: ir.Graph, instructions: tuple[Halve, ...]) -> None:
    """Carry the instructions out."""
    for instruction in instructions:
        value = instruction.value
        tensor = value.const_value
        if tensor is None:
            continue
        uses = list(value.uses())
        name = value.name
        content = tensor.numpy().astype(np.float16)
        value.const_value = ir.tensor(content, name=name)
        value.dtype = ir.DataType.FLOAT16
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, name=f"{name}_cast")
        cast.outputs[0].name = f"{name}_f32"
        graph.insert_before(next(iter(graph)), cast)
        for use in uses:
            use.node.replace_input_with(use.idx, cast.outputs[0])
