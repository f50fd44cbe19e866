"""How a tensor lies in the two files, and its elements as integers whose differences are small."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import permutations
from math import prod

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError
from skerry.updater.delta.wire import Reader, varint

__all__ = ["ORDERS", "Element", "Geometry", "Unsigned"]

ORDERS = tuple(permutations(range(4)))
"""The ways in which four axes may follow one another in a file, in lexicographic order."""

Unsigned = NDArray[np.unsignedinteger]


class Element(IntEnum):
    """What the elements of a tensor are, all little-endian."""

    INT8 = 0
    INT16 = 1
    INT32 = 2
    FLOAT16 = 3
    BFLOAT16 = 4
    FLOAT32 = 5

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return (1, 2, 4, 2, 2, 4)[self]

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The unsigned integers of that size."""
        return np.dtype(f"<u{self.bytes}")

    @property
    def mantissa_bits(self) -> int:
        """Stored mantissa bits; 0 for an integer."""
        return (0, 0, 0, 10, 7, 23)[self]

    @property
    def exponents(self) -> int:
        """How many exponents a float's bits can tell; 1 for an integer."""
        return (1, 1, 1, 32, 256, 256)[self]

    @property
    def ratio_bits(self) -> int:
        """How finely a ratio is told: in 2^−ratio_bits; 0 where there are none."""
        return (10, 0, 0, 14, 0, 22)[self]

    def ordered(self, bits: Unsigned) -> Unsigned:
        """Bit patterns → integers in the order of the values, neighbours one apart."""
        if not self.mantissa_bits:
            return bits
        return bits ^ (self._filled(bits) | self._sign)

    def patterns(self, ordered: Unsigned) -> Unsigned:
        """What `ordered` was given."""
        if not self.mantissa_bits:
            return ordered
        return ordered ^ (~self._filled(ordered) | self._sign)

    @property
    def _sign(self) -> np.unsignedinteger:
        return self.dtype.type(1 << (8 * self.bytes - 1))

    def _filled(self, bits: Unsigned) -> Unsigned:
        """All bits set where the highest is, else none."""
        return (bits.view(f"<i{self.bytes}") >> (8 * self.bytes - 1)).view(self.dtype)

    def lifts(self, bits: Unsigned) -> NDArray[np.int32]:
        """How many half octaves a unit of the last place is above that of the least exponent."""
        if not self.mantissa_bits:
            return np.zeros(bits.shape, np.int32)
        mask = (1 << (8 * self.bytes - 1 - self.mantissa_bits)) - 1
        exponents = (bits >> self.dtype.type(self.mantissa_bits)).astype(np.int32)
        exponents &= mask
        np.maximum(exponents, 1, out=exponents)
        exponents *= 2
        return exponents

    def differences(self, new: Unsigned, old: Unsigned) -> NDArray[np.int32]:
        """new − old of ordered integers, modulo their size, as signed."""
        return (new - old).view(f"<i{self.bytes}").astype(np.int32)


@dataclass(frozen=True)
class Geometry:
    """A tensor of up to four axes: kernel height, kernel width, rows, columns.

    Rows are output channels and columns input channels where there are such. Both files hold the
    same elements; `old_order` and `new_order` say which of the four axes comes first, second, …
    in each of them.

    Attributes:
        element: the elements' type.
        sizes: of the four axes, each at least 1.
        old_order, new_order: permutations of 0 to 3.
    """

    element: Element
    sizes: tuple[int, int, int, int]
    old_order: tuple[int, ...] = ORDERS[0]
    new_order: tuple[int, ...] = ORDERS[0]

    @cached_property
    def length(self) -> int:
        """Bytes in either file."""
        return prod(self.sizes) * self.element.bytes

    @property
    def planes(self) -> int:
        """How many places a kernel has."""
        return self.sizes[0] * self.sizes[1]

    def canonical(self, data: bytes | memoryview, *, new: bool = False) -> Unsigned:
        """The elements' bits as they lie in a file → [planes, rows, columns]."""
        order = self.new_order if new else self.old_order
        shaped = np.frombuffer(data, self.element.dtype).reshape([self.sizes[a] for a in order])
        turned = np.ascontiguousarray(shaped.transpose(np.argsort(order)))
        height, width, rows, columns = self.sizes
        return turned.reshape(height * width, rows, columns)

    def lay_out(self, canonical: Unsigned, out: NDArray[np.uint8]) -> None:
        """Put [planes, rows, columns] into `out` as the new file's bytes."""
        turned = canonical.reshape(self.sizes).transpose(self.new_order)
        if out.ctypes.data % self.element.bytes:
            out[:] = np.frombuffer(turned.tobytes(), np.uint8)
        else:
            out.view(self.element.dtype).reshape(turned.shape)[...] = turned

    def encode(self) -> bytes:
        """The bytes of this geometry in a program."""
        orders = ORDERS.index(self.old_order) * len(ORDERS) + ORDERS.index(self.new_order)
        return b"".join([bytes([self.element]), *map(varint, (*self.sizes, orders))])

    @classmethod
    def decode(cls, reader: Reader, most: int) -> Geometry:
        """Read one that takes at most `most` bytes."""
        kind = reader.byte()
        if kind >= len(Element):
            raise BundleError(f"unknown element type {kind}", remedy="update skerry")
        height, width, rows, columns = (reader.varint(most) for _ in range(4))
        orders = reader.varint(len(ORDERS) ** 2 - 1)
        old, new = divmod(orders, len(ORDERS))
        found = cls(Element(kind), (height, width, rows, columns), ORDERS[old], ORDERS[new])
        if not 0 < found.length <= most:
            raise BundleError("a tensor is larger than its segment")
        return found
