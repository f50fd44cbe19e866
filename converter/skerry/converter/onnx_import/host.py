"""Arithmetic on what is known while the module is traced: shapes and small constants. Lengths that
are free stay symbolic. A kernel gives None for what must be computed on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skerry.converter.onnx_import.call import Call, Host
from skerry.converter.onnx_import.dtypes import element_type

__all__ = ["HOST_OPERATORS"]

_LARGEST = 4096  # elements; more than a shape has, little enough to copy freely
_Kernel = Callable[[Call], Host | tuple[Host, ...] | None]


def _array(call: Call, index: int) -> Host:
    array: Host = call.value(index)
    return array


def _binary(function: Callable[[Any, Any], Any]) -> _Kernel:
    def kernel(call: Call) -> Host | None:
        x, y = _array(call, 0), _array(call, 1)
        return None if x.size * y.size > _LARGEST else np.asarray(function(x, y))

    return kernel


def _several(function: Callable[[Any, Any], Any]) -> _Kernel:
    def kernel(call: Call) -> Host:
        found = _array(call, 0)
        for index in range(1, call.count):
            found = np.asarray(function(found, _array(call, index)))
        return found

    return kernel


def _unary(function: Callable[[Any], Any]) -> _Kernel:
    return lambda call: np.asarray(function(_array(call, 0)))


def _divide(x: Host, y: Host) -> Host:
    """Integers are divided towards zero; symbolic ones are never negative."""
    if object in (x.dtype, y.dtype):
        return np.asarray(x // y)
    if x.dtype.kind == "f":
        return np.asarray(x / y)
    found: Host = np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))
    return found.astype(x.dtype)


def _cast(call: Call) -> Host | None:
    x = _array(call, 0)
    kind = element_type(call.integer("to"), call.node.where)
    if x.dtype == object:
        return x if kind.name == "int64" else None
    return None if kind.bits or kind.numpy.kind not in "biuf" else x.astype(kind.numpy)


def _gather(call: Call) -> Host:
    return np.asarray(
        np.take(_array(call, 0), _array(call, 1).astype(np.int64), axis=call.integer("axis", 0))
    )


def _slice(call: Call) -> Host | None:
    x = _array(call, 0)
    starts, ends = call.ints(1), call.ints(2)
    axes, steps = call.ints(3, range(len(starts))), call.ints(4, [1] * len(starts))
    if not all(isinstance(item, int) for item in (*starts, *ends)):
        return None
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(index)]


def _squeeze(call: Call) -> Host:
    x = _array(call, 0)
    axes = call.axes(x.ndim)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Host:
    x = _array(call, 0)
    return np.expand_dims(x, tuple(call.ints(1)))


def _reshape(call: Call) -> Host | None:
    shape = call.ints(1)
    if 0 in shape or not all(isinstance(item, int) for item in shape):
        return None
    return _array(call, 0).reshape(shape)


def _concat(call: Call) -> Host:
    return np.concatenate([_array(call, i) for i in range(call.count)], call.integer("axis"))


def _where(call: Call) -> Host:
    return np.where(_array(call, 0).astype(bool), _array(call, 1), _array(call, 2))


def _constant_of_shape(call: Call) -> Host | None:
    shape = call.ints(0)
    if not all(isinstance(item, int) for item in shape) or _size(shape) > _LARGEST:
        return None
    value = call.node.attributes.get("value", np.zeros(1, np.float32))
    return np.full(shape, value.reshape(-1)[0], value.dtype) if value.dtype.kind in "iub" else None


def _expand(call: Call) -> Host | None:
    x, shape = _array(call, 0), call.ints(1)
    if not all(isinstance(item, int) for item in shape) or _size(shape) > _LARGEST:
        return None
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape))).copy()


def _range(call: Call) -> Host | None:
    arrays = [_array(call, index) for index in range(3)]
    if any(array.dtype.kind not in "iu" for array in arrays):
        return None
    chosen = range(*(int(array.reshape(())) for array in arrays))
    return np.array(chosen, arrays[0].dtype) if len(chosen) <= _LARGEST else None


def _reduction(function: Callable[..., Any]) -> _Kernel:
    def kernel(call: Call) -> Host:
        x = _array(call, 0)
        axes = call.axes(x.ndim)
        if axes == [] and call.integer("noop_with_empty_axes", 0):
            return x
        keep = bool(call.integer("keepdims", 1))
        found = function(x, axis=tuple(axes) if axes else None, keepdims=keep)
        return np.asarray(found, dtype=x.dtype)

    return kernel


def _split(call: Call) -> tuple[Host, ...] | None:
    x, axis = _array(call, 0), call.integer("axis", 0)
    if not call.has(1):
        return None
    return tuple(np.split(x, np.cumsum(call.ints(1))[:-1], axis))


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= max(length, 0)
    return size


HOST_OPERATORS: dict[str, _Kernel] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "Cast": _cast,
    "Ceil": _unary(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_divide),
    "Equal": _binary(lambda x, y: x == y),
    "Expand": _expand,
    "Floor": _unary(np.floor),
    "Gather": _gather,
    "Greater": _binary(lambda x, y: x > y),
    "GreaterOrEqual": _binary(lambda x, y: x >= y),
    "Identity": _unary(lambda x: x),
    "Less": _binary(lambda x, y: x < y),
    "LessOrEqual": _binary(lambda x, y: x <= y),
    "Max": _several(np.maximum),
    "Min": _several(np.minimum),
    "Mul": _binary(lambda x, y: x * y),
    "Neg": _unary(lambda x: -x),
    "Not": _unary(np.logical_not),
    "Or": _binary(np.logical_or),
    "Range": _range,
    "ReduceMax": _reduction(np.max),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": _reshape,
    "Shape": lambda call: np.array(_array(call, 0).shape, np.int64),
    "Size": lambda call: np.array(_array(call, 0).size, np.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _binary(lambda x, y: x - y),
    "Transpose": lambda call: np.transpose(
        _array(call, 0), call.ints("perm", range(_array(call, 0).ndim)[::-1])
    ),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
