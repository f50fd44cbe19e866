"""MIL's element types as torch and numpy know them. Types below eight bits are carried in int8 or
uint8, one element each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skerry.devices.errors import UnsupportedError

__all__ = ["BY_NAME", "BY_NUMBER", "ElementType", "element_type", "unpack_bits"]


@dataclass(frozen=True, slots=True)
class ElementType:
    """One element type.

    Attributes:
        name: as MIL operators spell it (`fp16`, `int8`, `uint4`, …).
        bits: the width of one stored element.
        signed: whether a stored integer is two's complement.
        torch: the dtype values are computed in.
        numpy: the dtype an element of eight bits or more is stored in.
        immediate_bytes: an immediate value of it is kept as raw bytes.
    """

    name: str
    bits: int
    signed: bool
    torch: torch.dtype
    numpy: str
    immediate_bytes: bool = False


BY_NUMBER: dict[int, ElementType] = {
    1: ElementType("bool", 8, False, torch.bool, "bool"),
    10: ElementType("fp16", 16, True, torch.float16, "float16", True),
    11: ElementType("fp32", 32, True, torch.float32, "float32"),
    12: ElementType("fp64", 64, True, torch.float64, "float64"),
    21: ElementType("int8", 8, True, torch.int8, "int8", True),
    22: ElementType("int16", 16, True, torch.int16, "int16"),
    23: ElementType("int32", 32, True, torch.int32, "int32"),
    24: ElementType("int64", 64, True, torch.int64, "int64"),
    25: ElementType("int4", 4, True, torch.int8, "int8", True),
    31: ElementType("uint8", 8, False, torch.uint8, "uint8", True),
    32: ElementType("uint16", 16, False, torch.int32, "uint16"),
    33: ElementType("uint32", 32, False, torch.int64, "uint32", True),
    35: ElementType("uint4", 4, False, torch.uint8, "uint8", True),
    36: ElementType("uint2", 2, False, torch.uint8, "uint8", True),
    37: ElementType("uint1", 1, False, torch.uint8, "uint8", True),
    38: ElementType("uint6", 6, False, torch.uint8, "uint8", True),
    39: ElementType("uint3", 3, False, torch.uint8, "uint8", True),
}
BY_NAME: dict[str, ElementType] = {kind.name: kind for kind in BY_NUMBER.values()}


def element_type(number: int, where: str) -> ElementType:
    """The element type with the protobuf enum value `number`.

    Raises:
        UnsupportedError: one that is not computed with here.
    """
    found = BY_NUMBER.get(number)
    if found is None:
        raise UnsupportedError(f"MIL element type {number} is not supported", where=where)
    return found


def unpack_bits(packed: NDArray[np.uint8], kind: ElementType, count: int) -> NDArray[Any]:
    """`count` elements below eight bits from their packed bytes, least significant bit first."""
    bits = np.unpackbits(packed, bitorder="little", count=count * kind.bits)
    weights = (1 << np.arange(kind.bits)).astype(np.uint8)
    values: NDArray[Any] = (bits.reshape(count, kind.bits) * weights).sum(axis=1, dtype=np.uint8)
    if not kind.signed:
        return values
    sign = np.uint8(1 << (kind.bits - 1))
    centred: NDArray[Any] = (values ^ sign).astype(np.int16) - int(sign)
    return centred.astype(np.int8)
