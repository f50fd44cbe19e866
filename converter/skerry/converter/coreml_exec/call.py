"""What an operator's function is given: its arguments by name, read as what they should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import Tensor

from skerry.converter.coreml_exec.graph import Operation
from skerry.devices.errors import BundleError, UnsupportedError

__all__ = ["Call", "Kernel", "wide"]

_Value = Any  # a Tensor, a str, or what control flow carries


class Call:
    """One operation with its arguments at hand.

    Args:
        operation: what is to be computed.
        arguments: by parameter, the values of the tuple that was bound to it.
        max_elements: how many elements one result may have.
    """

    __slots__ = ("_arguments", "_max_elements", "operation")

    def __init__(
        self, operation: Operation, arguments: Mapping[str, tuple[_Value, ...]], max_elements: int
    ) -> None:
        self.operation = operation
        self._arguments = arguments
        self._max_elements = max_elements

    def __contains__(self, key: str) -> bool:
        return key in self._arguments

    def __getitem__(self, key: str) -> Tensor:
        value = self.get(key)
        if value is None:
            raise BundleError(f"{self.operation.kind} has no {key}", where=self.operation.where)
        return value

    def get(self, key: str) -> Tensor | None:
        """The tensor `key`, or None where it was left out."""
        values = self._arguments.get(key)
        return values[0] if values else None

    def all(self, key: str) -> tuple[Tensor, ...]:
        """Every tensor of the tuple `key`."""
        return self._arguments.get(key, ())

    def ints(self, key: str, default: list[int] | None = None) -> list[int]:
        """The integers of the tensor or tuple `key`, flattened."""
        values = self._arguments.get(key)
        if values is None:
            if default is None:
                self[key]
            return list(default or [])
        return [int(item) for value in values for item in value.reshape(-1).tolist()]

    def integer(self, key: str, default: int | None = None) -> int:
        """The integer `key`."""
        return self.ints(key, None if default is None else [default])[0]

    def flags(self, key: str, length: int) -> list[bool]:
        """The booleans of `key`; all False where it was left out."""
        return [bool(item) for item in self.ints(key, [0] * length)]

    def flag(self, key: str, default: bool = False) -> bool:
        """The boolean `key`."""
        return bool(self.integer(key, int(default)))

    def number(self, key: str, default: float | None = None) -> float:
        """The number `key`."""
        if default is not None and key not in self._arguments:
            return default
        return float(self[key].reshape(-1)[0].item())

    def text(self, key: str, default: str | None = None) -> str:
        """The string `key`."""
        values = self._arguments.get(key)
        value: Any = values[0] if values else default
        if not isinstance(value, str):
            raise BundleError(f"{self.operation.kind} has no {key}", where=self.operation.where)
        return value

    def bounded(self, shape: list[int]) -> list[int]:
        """`shape`, if a tensor of that shape may be made.

        Raises:
            BundleError: negative, or of too many elements.
        """
        if any(length < 0 for length in shape) or prod(shape) > self._max_elements:
            raise BundleError(
                f"{self.operation.kind} would make a tensor of shape {shape}",
                where=self.operation.where,
            )
        return shape

    def unsupported(self, what: str) -> UnsupportedError:
        """An error that names this operation."""
        return UnsupportedError(f"{self.operation.kind}: {what}", where=self.operation.where)


Kernel = Callable[[Call], Any]


def wide(x: Tensor) -> Tensor:
    """`x` in fp32 where it is fp16: what accumulates does so in fp32."""
    return x.float() if x.dtype.itemsize == 2 and x.is_floating_point() else x
