"""Adaptive frequencies of tokens in contexts, the same in encoder and decoder.

Everything is integer arithmetic, so that every machine gets the same tables. A context is a level
(how large a value to expect, in half octaves) and a bin (what the neighbours suggest). It starts
from a two-sided geometric distribution of its level, learns what its level has seen, and then what
it has seen itself.
"""

from __future__ import annotations

from functools import cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.tokens import ESCAPE, TOKENS, bounds

__all__ = [
    "BINS",
    "CONTEXTS",
    "LEVELS",
    "LOWEST_LEVEL",
    "SCALE",
    "SCALE_BITS",
    "SIDE_CONTEXTS",
    "Tables",
    "expected",
]

SCALE_BITS = 12
SCALE = 1 << SCALE_BITS
LOWEST_LEVEL = -16
LEVELS = 64
BINS = 8
SIDE_CONTEXTS = 9
CONTEXTS = (LEVELS + SIDE_CONTEXTS) * BINS
_UNIT, _FIXED = 16, 32
_EXACT = 1 << 52
_PRIOR_OF_LEVEL = 64
_PRIOR_OF_CONTEXT = 80
_SIDE_LEVEL = 3
_START_MASK, _START_BITS = np.uint32((1 << 13) - 1), np.uint32(13)


@cache
def expected() -> NDArray[np.int64]:
    """The two-sided geometric distribution of each level, as 2^16 parts: [levels, tokens].

    Level l has the scale s = 2^(l / 2). With q = s / (1 + s) the magnitude m has the weight
    (1 - q) q^m, once for each sign.
    """
    one = 1 << _FIXED
    scales = [isqrt(1 << 2 * _FIXED + LOWEST_LEVEL + level) for level in range(LEVELS)]
    q = np.array([(scale << _FIXED) // (scale + one) for scale in scales], np.uint64)
    low, high = np.array([bounds(token)[:2] for token in range(ESCAPE)], np.uint64).T
    weights = np.zeros((LEVELS, TOKENS), np.int64)
    weights[:, :ESCAPE] = (_powers(q, low) - _powers(q, high)).view(np.int64)
    weights[:, ESCAPE] = weights.sum(1) >> 13
    parts: NDArray[np.int64] = (weights << _UNIT) // weights.sum(1, keepdims=True)
    return parts


def _powers(q: NDArray[np.uint64], exponents: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each q, as 2^32 parts, to the power of each exponent: [q, exponents]."""
    result = np.full((len(q), len(exponents)), 1 << _FIXED, np.uint64)
    factor, shift = q[:, None].copy(), np.uint64(_FIXED)
    for bit in range(int(exponents.max()).bit_length()):
        odd = (exponents >> np.uint64(bit) & np.uint64(1)).nonzero()[0]
        result[:, odd] = result[:, odd] * factor >> shift
        factor = factor * factor >> shift
    return result


class Tables:
    """What is known so far about the tokens of each context.

    `ranges[context * TOKENS + token]` packs start | frequency << 13.
    """

    def __init__(self) -> None:
        self.ranges = np.zeros(CONTEXTS * TOKENS, np.uint32)
        self._counts = np.zeros((CONTEXTS, TOKENS), np.int64)
        self._seen = np.zeros(CONTEXTS, np.int64)
        self._due = np.zeros(CONTEXTS, np.int64)
        self._span, self._block = (0, 0), (0, np.zeros((0, TOKENS), np.int64))

    def prepare(
        self, contexts: NDArray[np.int64], tokens: NDArray[np.uint8] | None = None
    ) -> NDArray[np.int64]:
        """Bring the tables of `contexts` up to date where enough was learnt since then.

        Args:
            contexts: of a block.
            tokens: of the block, where they are known.

        Returns:
            Those whose tables changed.
        """
        if tokens is None:
            used = np.flatnonzero(np.bincount(contexts))
            self._span = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        else:
            first, counts = self._block = _counted(contexts, tokens)
            used = np.flatnonzero(counts.any(1)) + first
        due = used[self._seen[used] >= self._due[used]]
        if len(due):
            self._make(due)
            self._due[due] = self._seen[due] * 9 // 8 + 4
        return due

    def observe(self, starts: NDArray[np.int64], tokens: NDArray[np.uint8]) -> None:
        """Learn that these tokens were coded in the contexts for which was prepared last.

        Args:
            starts: TOKENS times each context; overwritten.
            tokens: of the block.
        """
        first, end = self._span
        starts -= first * TOKENS
        starts += tokens
        counts = np.bincount(starts, minlength=(end - first) * TOKENS).reshape(-1, TOKENS)
        self._block = first, counts
        self.learn()

    def learn(self) -> None:
        """Learn the block whose tokens were known when it was prepared."""
        first, counts = self._block
        self._counts[first : first + len(counts)] += counts
        self._seen[first : first + len(counts)] += counts.sum(1)

    def slots(self, contexts: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The token that each slot of these contexts stands for: [contexts, SCALE]."""
        frequency = self.ranges.reshape(CONTEXTS, TOKENS)[contexts] >> _START_BITS
        tokens = np.tile(np.arange(TOKENS, dtype=np.uint8), len(contexts))
        return np.repeat(tokens, frequency.ravel()).reshape(-1, SCALE)

    def _make(self, due: NDArray[np.int64]) -> None:
        levels, of = np.unique(due // BINS, return_inverse=True)
        grouped = self._counts.reshape(-1, BINS, TOKENS)[levels].sum(1)
        prior = expected().take(np.where(levels < LEVELS, levels, _SIDE_LEVEL - LOWEST_LEVEL), 0)
        known = (grouped << _UNIT) + _PRIOR_OF_LEVEL * prior
        able = known.any(0).nonzero()[0]  # tokens that any of them may have, an escape the last
        known = known[:, able]
        share = _divided(known << _UNIT, known.sum(1, keepdims=True))
        cells = due[:, None], able
        counts = self._counts[cells]
        weights = (counts << _UNIT) + _PRIOR_OF_CONTEXT * share[of]
        frequency = _apportioned(weights, counts > 0)
        start = np.cumsum(frequency, 1) - frequency
        self.ranges.reshape(CONTEXTS, TOKENS)[cells] = start | frequency << 13


def _counted(
    contexts: NDArray[np.int64], tokens: NDArray[np.uint8]
) -> tuple[int, NDArray[np.int64]]:
    """How often each token comes in each context: the first context, and the counts from there."""
    if not len(contexts):
        return 0, np.zeros((0, TOKENS), np.int64)
    first, last = int(contexts.min()), int(contexts.max())
    both = contexts - first
    both <<= 8
    both += tokens
    size = (last - first + 1) * TOKENS
    return first, np.bincount(both, minlength=size).reshape(-1, TOKENS)


def _divided(parts: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.int64]:
    """parts // whole, of integers that are not negative.

    Below 2^52 in floating point, which is several times as fast and comes to the same: a quotient
    that is no integer lies further below the next one than the rounding of a binary64 can reach.
    """
    if int(parts.max()) < _EXACT:
        return (parts / whole).astype(np.int64)
    found: NDArray[np.int64] = parts // whole
    return found


def _apportioned(weights: NDArray[np.int64], seen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Frequencies that sum to SCALE, near the weights, at least 1 for what was seen or escapes.

    Args:
        weights, seen: of some tokens, of which an escape is the last.
    """
    least = seen.astype(np.int64)
    least[:, -1] = 1
    total = weights.sum(1, keepdims=True)
    rounded = np.maximum(_divided(weights * (2 * SCALE) + total, 2 * total), least)
    spare = SCALE - rounded.sum(1)
    most = rounded.argmax(1)
    rows = np.arange(len(weights))
    rounded[rows, most] += spare
    tight = rounded[rows, most] < 1
    if tight.any():
        floor = weights[tight] * (SCALE - TOKENS) // total[tight] + least[tight]
        floor[np.arange(len(floor)), floor.argmax(1)] += SCALE - floor.sum(1)
        rounded[tight] = floor
    return rounded
