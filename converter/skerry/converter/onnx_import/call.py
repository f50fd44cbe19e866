"""A node of the graph, and what its operator's function is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skerry.converter.onnx_import.dtypes import from_numpy
from skerry.devices.errors import InputError, UnsupportedError

__all__ = ["Call", "Host", "Kernel", "Node", "Value", "as_tensor", "is_host"]

# What is known while the module is traced: constants, and lengths of axes. It has the dtype
# `object` where it holds symbolic integers.
Host = NDArray[Any]
Value = Any  # a Tensor, a Host, a list (a sequence) or None
_Int = Any  # an int or a torch.SymInt


@dataclass(frozen=True, slots=True)
class Node:
    """One node.

    Attributes:
        kind: the operator's name.
        where: the node's name, or that of its first output, for errors.
        inputs, outputs: names of values; empty where one is left out.
        attributes: numbers, strings, arrays, lists of them, or subgraphs.
        opset: the version of the operator set.
    """

    kind: str
    where: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int


class Call:
    """One evaluation of a node.

    Args:
        node: what is computed.
        inputs: its values; None where one is left out.
        max_elements: elements of one result.
        training: the module's own mode, for dropout.
        graphs: runs a subgraph by the name of its attribute.
    """

    __slots__ = ("_graphs", "_inputs", "_max_elements", "node", "training")

    def __init__(
        self,
        node: Node,
        inputs: Sequence[Value],
        max_elements: int,
        training: bool = False,
        graphs: Callable[[str, Sequence[Value]], list[Value]] | None = None,
    ) -> None:
        self.node = node
        self.training = training
        self._inputs = inputs
        self._max_elements = max_elements
        self._graphs = graphs

    @property
    def count(self) -> int:
        """How many inputs there are, those left out at the end not counted."""
        return len(self._inputs)

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self._inputs) and self._inputs[index] is not None

    def value(self, index: int) -> Value:
        """Input `index` as it is."""
        if not self.has(index):
            raise InputError(f"{self.node.kind} has no input {index}", where=self.node.where)
        return self._inputs[index]

    def tensor(self, index: int) -> Tensor:
        """Input `index` as a tensor."""
        return as_tensor(self.value(index))

    def maybe(self, index: int) -> Tensor | None:
        """Input `index` as a tensor, or None where it is left out."""
        return self.tensor(index) if self.has(index) else None

    def tensors(self) -> list[Tensor]:
        """Every input as a tensor."""
        return [self.tensor(index) for index in range(len(self._inputs))]

    def operand(self, index: int) -> Tensor | float:
        """Input `index` as a tensor; a constant scalar as a number beside a float tensor."""
        value = self.value(index)
        others = [other for at, other in enumerate(self._inputs) if at != index]
        if not is_host(value) or value.ndim or not all(isinstance(o, Tensor) for o in others):
            return as_tensor(value)
        if value.dtype == np.float32 and all(o.is_floating_point() for o in others):
            return float(value)
        return as_tensor(value)

    def ints(self, key: int | str, default: Sequence[_Int] | None = None) -> list[_Int]:
        """The integers of an input (by position) or attribute (by name), flattened. They may be
        symbolic."""
        if isinstance(key, str):
            found = self.node.attributes.get(key)
        else:
            found = self._inputs[key] if self.has(key) else None
        if found is None:
            if default is None:
                raise InputError(f"{self.node.kind} has no {key}", where=self.node.where)
            return list(default)
        if isinstance(found, Tensor):
            return [int(item) for item in found.reshape(-1).tolist()]
        if is_host(found):
            items = found.reshape(-1).tolist()
            return items if found.dtype == object else [int(item) for item in items]
        return [int(item) for item in (found if isinstance(found, list) else [found])]

    def integer(self, key: int | str, default: int | None = None) -> _Int:
        """One integer of an input or attribute."""
        return self.ints(key, None if default is None else [default])[0]

    def number(self, key: int | str, default: float | None = None) -> float:
        """One number of an input or attribute."""
        found = self.numbers(key, None if default is None else [default])
        return found[0]

    def numbers(self, key: int | str, default: Sequence[float] | None = None) -> list[float]:
        """The numbers of an input or attribute, flattened."""
        if isinstance(key, str):
            found = self.node.attributes.get(key)
        else:
            found = self._inputs[key] if self.has(key) else None
        if found is None:
            if default is None:
                raise InputError(f"{self.node.kind} has no {key}", where=self.node.where)
            return list(default)
        if isinstance(found, Tensor):
            return [float(item) for item in found.reshape(-1).tolist()]
        if is_host(found):
            return [float(item) for item in found.reshape(-1).tolist()]
        return [float(item) for item in (found if isinstance(found, list) else [found])]

    def text(self, key: str, default: str) -> str:
        """A string attribute."""
        return str(self.node.attributes.get(key, default))

    def texts(self, key: str) -> list[str]:
        """The strings of an attribute."""
        return [str(item) for item in self.node.attributes.get(key, [])]

    def axes(self, rank: int, *, position: int = 1) -> list[int] | None:
        """Axes from the attribute `axes` or the input at `position`, none below zero; None where
        neither is given."""
        if "axes" in self.node.attributes:
            return [axis % rank for axis in self.ints("axes")]
        return [axis % rank for axis in self.ints(position)] if self.has(position) else None

    def run(self, graph: str, inputs: Sequence[Value]) -> list[Value]:
        """What the subgraph in the attribute `graph` yields."""
        if self._graphs is None:
            raise self.unsupported("a subgraph here")
        return self._graphs(graph, inputs)

    def bounded(self, shape: Sequence[_Int]) -> list[_Int]:
        """`shape`, if a tensor of that shape may be made.

        Raises:
            InputError: negative, or of too many elements.
        """
        known = [length for length in shape if isinstance(length, int)]
        if any(length < 0 for length in known) or prod(known) > self._max_elements:
            raise InputError(
                f"{self.node.kind} would make a tensor of shape {list(shape)}",
                where=self.node.where,
            )
        return list(shape)

    def unsupported(self, what: str) -> UnsupportedError:
        """An error that names this node."""
        return UnsupportedError(f"{self.node.kind}: {what} is not supported", where=self.node.where)


Kernel = Callable[[Call], Any]


def is_host(value: Value) -> bool:
    """Whether `value` is known while the module is traced."""
    return isinstance(value, np.ndarray)


def as_tensor(value: Value) -> Tensor:
    """A tensor from a tensor or a host value."""
    if isinstance(value, Tensor):
        return value
    if not is_host(value):
        raise InputError("a tensor is needed where a sequence stands")
    if value.dtype != object:
        return from_numpy(value)
    items = [torch.scalar_tensor(item, dtype=torch.int64) for item in value.reshape(-1)]
    return torch.stack(items).reshape(value.shape) if items else torch.zeros(0, dtype=torch.int64)
