"""A tensor in a file, and what its axes mean."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from skerry.updater.delta.geometry import Element

__all__ = ["CHANNELS_FIRST", "CHANNELS_LAST", "MOST_TENSORS", "FormatError", "Tensor", "tensor"]

MOST_TENSORS = 1 << 17

CHANNELS_FIRST = (2, 3, 0, 1)
"""A kernel that lies as output channels, input channels, height, width."""
CHANNELS_LAST = (2, 0, 1, 3)
"""A kernel that lies as output channels, height, width, input channels."""


class FormatError(ValueError):
    """The bytes are not what their format says; they are then treated as any other bytes."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file.

    Attributes:
        name: unique within its file where the format gives names.
        element: the elements' type.
        sizes: kernel height, kernel width, rows, columns.
        order: which of these four axes comes first, second, … in the file.
        offset: where its bytes begin.
    """

    name: str
    element: Element
    sizes: tuple[int, int, int, int]
    order: tuple[int, ...]
    offset: int

    @property
    def length(self) -> int:
        """Its bytes."""
        return prod(self.sizes) * self.element.bytes


def tensor(
    name: str,
    element: Element,
    shape: tuple[int, ...],
    offset: int,
    order: tuple[int, ...] = CHANNELS_FIRST,
) -> Tensor:
    """A tensor of any rank; `order` is that of a kernel of rank four (or three, or five)."""
    match shape:
        case () | (_,):
            sizes, order = (1, 1, 1, prod(shape)), (0, 1, 2, 3)
        case (rows, columns):
            sizes, order = (1, 1, rows, columns), (0, 1, 2, 3)
        case (first, second, third):
            four = (
                (first, second, 1, third) if order == CHANNELS_FIRST else (first, 1, second, third)
            )
            return tensor(name, element, four, offset, order)
        case (_, _, _, _):
            by_axis = dict(zip(order, shape, strict=True))
            sizes = (by_axis[0], by_axis[1], by_axis[2], by_axis[3])
        case _:
            return tensor(name, element, (shape[0], prod(shape[1:])), offset)
    return Tensor(name, element, sizes, order, offset)
