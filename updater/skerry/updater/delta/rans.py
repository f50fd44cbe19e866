"""Interleaved range asymmetric numeral systems (Duda, 2013; Giesen, 2014) over adaptive tables.

Symbols come in blocks; symbol i of a block belongs to lane i mod lanes. Each lane has a 32-bit
state that moves 16 bits at a time to and from one sequence of words, which all lanes share. Bits
that need no model lie in a second sequence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError
from skerry.updater.delta.tables import SCALE, SCALE_BITS, Tables
from skerry.updater.delta.tokens import ESCAPE, TOKENS

__all__ = ["Decoder", "Encoder"]

_LOW = np.uint32(1 << 16)
_MASK = np.uint32(SCALE - 1)
_SHIFT = np.uint32(SCALE_BITS)
_FREQUENCY_AT, _START_AT = np.uint32(8), np.uint32(20)
_WORD = np.uint32((1 << 16) - 1)
_START_BITS, _START_MASK = np.uint32(13), np.uint32((1 << 13) - 1)
_ONE_START = np.uint32(1 << 13)
_BITS = SCALE_BITS - np.log2(np.maximum(np.arange(SCALE + 1), 1))
_WORD_BITS, _ONE = np.uint32(16), np.uint32(1)
_Contexts = NDArray[np.int64]
_Tokens = NDArray[np.uint8]
_Bits = NDArray[np.int64]


class Decoder:
    """Gives back what an `Encoder` was given, block by block.

    Args:
        states: the lanes' states, one 32-bit integer each.
        words: the coded words.
        raw: the bits without a model.
    """

    def __init__(self, states: NDArray[np.uint32], words: NDArray[np.uint16], raw: bytes) -> None:
        self._tables = Tables()
        self._states, self._words, self._at = states.astype(np.uint32), words.astype(np.uint32), 0
        self._raw, self._bit = np.frombuffer(raw + bytes(8), np.uint8), 0
        self._raw_bits = 8 * len(raw)

    def tokens(self, contexts: _Contexts, _: _Tokens | None = None) -> _Tokens:
        """The next block: one token for each context."""
        self._tables.prepare(contexts)
        out = np.empty(len(contexts), np.uint8)
        rows = contexts << SCALE_BITS
        lanes, slots, words, at = len(self._states), self._tables.slots, self._words, self._at
        for begin in range(0, len(contexts), lanes):
            state = self._states[: len(contexts) - begin]
            packed = slots.take(rows[begin : begin + lanes] | (state & _MASK))
            out[begin : begin + lanes] = packed  # the lowest byte
            state >>= _SHIFT
            state *= (packed >> _FREQUENCY_AT & _MASK) + _ONE
            state += packed >> _START_AT
            hungry = (state < _LOW).nonzero()[0]
            taken = words[at : at + len(hungry)]
            at += len(hungry)
            if len(taken) != len(hungry):
                raise BundleError("coded words end too early")
            state[hungry] = state.take(hungry) << _WORD_BITS | taken
        self._at = at
        escaped = np.flatnonzero(out == ESCAPE)
        if len(escaped):
            out[escaped] = self.raw(np.full(len(escaped), 8))
        self._tables.observe(contexts, out)
        return out

    def raw(self, widths: _Bits, _: _Bits | None = None) -> _Bits:
        """The next integers without a model, of `widths` (0 to 32) bits each."""
        ends = np.cumsum(widths)
        begins = ends - widths + self._bit
        if len(widths):
            self._bit += int(ends[-1])
        if self._bit > self._raw_bits:
            raise BundleError("raw bits end too early")
        window = np.zeros(len(widths), np.int64)
        for byte in range(5):
            window |= self._raw[(begins >> 3) + byte].astype(np.int64) << (8 * byte)
        return (window >> (begins & 7)) & ((np.int64(1) << widths) - 1)

    def bits(self, contexts: _Contexts, tokens: _Tokens) -> float:
        """How many bits the last block took."""
        return float(_BITS[self._tables.ranges[contexts * TOKENS + tokens] >> _START_BITS].sum())

    def end(self) -> None:
        """Raise unless everything was used up and each lane is where its encoder began."""
        if self._at != len(self._words) or (self._states != _LOW).any():
            raise BundleError("coded words do not end where they should")
        if (self._bit + 7) // 8 * 8 != self._raw_bits:
            raise BundleError("raw bits do not end where they should")


class Encoder:
    """Takes blocks of tokens and raw integers, and packs them at the end."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._blocks: list[tuple[NDArray[np.uint32], NDArray[np.uint32]]] = []
        self._values: list[_Bits] = []
        self._widths: list[_Bits] = []
        self.cost = 0.0

    def tokens(self, contexts: _Contexts, given: _Tokens | None = None) -> _Tokens:
        """Take one block; returns it."""
        assert given is not None
        self._tables.prepare(contexts)
        ranges = self._tables.ranges
        found = ranges.take(contexts * TOKENS + given)
        escaped = (found < _ONE_START).nonzero()[0]
        if len(escaped):
            self.raw(np.full(len(escaped), 8), given[escaped].astype(np.int64))
            found[escaped] = ranges[contexts[escaped] * TOKENS + ESCAPE]
        frequency = found >> _START_BITS
        self._blocks.append((frequency, found & _START_MASK))
        self.cost += float(np.bincount(frequency, minlength=SCALE + 1) @ _BITS)
        self._tables.observe(contexts, given)
        return given

    def raw(self, widths: _Bits, given: _Bits | None = None) -> _Bits:
        """Take integers of `widths` (0 to 32) bits each; returns them."""
        assert given is not None
        self._widths.append(widths)
        self._values.append(given)
        self.cost += float(widths.sum())
        return given

    def finish(self, lanes: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16], bytes]:
        """The states, words and raw bits for a `Decoder`, with so many lanes."""
        states = np.full(lanes, _LOW, np.uint32)
        words: list[NDArray[np.uint32]] = []
        top = np.uint32(32 - SCALE_BITS)
        for frequencies, starts in reversed(self._blocks):
            for begin in range((len(starts) - 1) // lanes * lanes, -1, -lanes):
                frequency = frequencies[begin : begin + lanes]
                state = states[: len(frequency)]
                full = (state >> top >= frequency).nonzero()[0]
                held = state[full]
                words.append((held & _WORD)[::-1])
                state[full] = held >> _WORD_BITS
                quotient = state // frequency
                state += quotient * (np.uint32(SCALE) - frequency)
                state += starts[begin : begin + lanes]
        joined = np.concatenate([np.zeros(0, np.uint32), *words])[::-1].astype(np.uint16)
        return states, joined, self._packed_bits()

    def _packed_bits(self) -> bytes:
        widths = np.concatenate([np.zeros(0, np.int64), *self._widths])
        values = np.concatenate([np.zeros(0, np.int64), *self._values])
        used = widths > 0
        widths, values = widths[used], values[used]
        total = int(widths.sum())
        begins = np.cumsum(widths) - widths
        size = total // 32 + 2
        shifted = values << (begins & 31)
        out = np.zeros(size, np.float64)
        for part in range(2):  # disjoint bits of 32-bit words: their sums are exact
            bits = shifted >> 32 * part & (1 << 32) - 1
            out += np.bincount((begins >> 5) + part, bits, size)
        return out.astype("<u4").tobytes()[: (total + 7) // 8]
