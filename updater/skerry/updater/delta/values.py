"""Signed integers through a coder, in contexts."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.tokens import FIRST_LARGE, RAW_BITS, split, value_of, with_raw

__all__ = ["Coder", "code_values"]

_Integers = NDArray[np.int32]
_Contexts = NDArray[np.int64]


class Coder(Protocol):
    """One direction: `Encoder` takes what is given, `Decoder` finds it."""

    def tokens(
        self, contexts: _Contexts, given: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """One token for each context."""

    def raw(self, widths: _Integers, given: _Integers | None = None) -> _Integers:
        """One integer for each width in bits."""


def code_values(
    coder: Coder, contexts: _Contexts, turned: _Integers | None, given: _Integers | None
) -> _Integers:
    """One signed integer for each context.

    Args:
        coder: an `Encoder`, or a `Decoder`.
        contexts: of each value.
        turned: −1 where the negative of a value is what is coded, else 0.
        given: for an `Encoder`: the values.
    """
    if given is not None:
        _give_values(coder, contexts, given if turned is None else (given ^ turned) - turned)
        return given
    tokens = coder.tokens(contexts)
    large = tokens >= FIRST_LARGE
    count = int(np.count_nonzero(large))
    if 2 * count > len(tokens):
        which = tokens.astype(np.intp)
        found = with_raw(which, coder.raw(RAW_BITS.take(which)))
    else:
        found = value_of(tokens)
        if count:
            at = large.nonzero()[0]
            which = tokens[at].astype(np.intp)
            found[at] = with_raw(which, coder.raw(RAW_BITS.take(which)))
    if turned is not None:
        found ^= turned
        found -= turned
    return found


def _give_values(coder: Coder, contexts: _Contexts, values: _Integers) -> None:
    tokens, raw = split(values)
    coder.tokens(contexts, tokens)
    large = tokens >= FIRST_LARGE
    count = int(np.count_nonzero(large))
    if 2 * count > len(tokens):
        coder.raw(RAW_BITS.take(tokens), raw)
    elif count:
        at = large.nonzero()[0]
        coder.raw(RAW_BITS.take(tokens[at]), raw[at])
