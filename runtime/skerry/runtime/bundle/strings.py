"""Arrays of strings as arrays of numbers, for files that hold numbers alone.

A string tensor is a numpy array of fixed width (`<U7`): the dtype `str` of a card.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError

__all__ = ["code_points", "from_code_points"]

_LAST = 0x10FFFF


def code_points(array: NDArray[np.str_]) -> NDArray[np.uint32]:
    """Strings [...] as Unicode code points, uint32 [..., width], zeros at the end of short ones."""
    width = array.dtype.itemsize // 4
    flat = np.ascontiguousarray(array).view(np.uint32)
    return flat.reshape(*array.shape, width)


def from_code_points(array: NDArray[Any]) -> NDArray[np.str_]:
    """The strings [...] of code points [..., width].

    Raises:
        BundleError: it holds other numbers.
    """
    if array.dtype != np.uint32 or array.ndim < 2 or not array.shape[-1]:
        raise BundleError(f"strings as {array.dtype} {list(array.shape)}")
    if array.max(initial=0) > _LAST:
        raise BundleError("a string holds what is no code point")
    strings = np.ascontiguousarray(array).view(f"<U{array.shape[-1]}")
    return strings.reshape(array.shape[:-1])
