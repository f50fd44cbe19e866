"""Interleaved range asymmetric numeral systems (Duda, 2013; Giesen, 2014) over adaptive tables.

Symbols come in blocks; symbol i of a block belongs to lane i mod lanes. Each lane has a 32-bit
state that moves 16 bits at a time to and from one sequence of words, which all lanes share. Bits
that need no model lie in a second sequence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError
from skerry.updater.delta.tables import CONTEXTS, SCALE, SCALE_BITS, Tables
from skerry.updater.delta.tokens import ESCAPE, TOKENS

__all__ = ["Decoder", "Encoder"]

_LOW = np.uint32(1 << 16)
_MASK = np.uint32(SCALE - 1)
_SHIFT = np.uint32(SCALE_BITS)
_WORD = np.uint32((1 << 16) - 1)
_START_BITS, _START_MASK = np.uint32(13), np.uint32((1 << 13) - 1)
_ONE_START = np.uint32(1 << 13)
_BITS = SCALE_BITS - np.log2(np.maximum(np.arange(SCALE + 1), 1))
_WORD_BITS = np.uint32(16)
_WORD_OF_BITS = np.uint64(32)
_Contexts = NDArray[np.int64]
_Tokens = NDArray[np.uint8]
_Bits = NDArray[np.int32]


class Decoder:
    """Gives back what an `Encoder` was given, block by block.

    Args:
        states: the lanes' states, one 32-bit integer each.
        words: the coded words.
        raw: the bits without a model.
    """

    def __init__(
        self, states: NDArray[np.uint32], words: NDArray[np.uint16], raw: bytes | memoryview
    ) -> None:
        self._tables = Tables()
        self._states, self._words, self._at = states.astype(np.uint32), words, 0
        padded = bytearray(len(raw) + 12 - len(raw) % 4)
        padded[: len(raw)] = raw
        self._raw, self._bit = np.frombuffer(padded, "<u4"), 0
        self._slots = np.zeros(CONTEXTS * SCALE, np.uint8)
        self._raw_bits = 8 * len(raw)

    def tokens(self, contexts: _Contexts, _: _Tokens | None = None) -> _Tokens:
        """The next block: one token for each context."""
        due = self._tables.prepare(contexts)
        if len(due):
            self._slots.reshape(CONTEXTS, SCALE)[due] = self._tables.slots(due)
        out = np.empty(len(contexts), np.uint8)
        tables = contexts << 8
        rows, ranges = contexts << SCALE_BITS, self._tables.ranges
        lanes, slots, words, at = len(self._states), self._slots, self._words, self._at
        for begin in range(0, len(contexts), lanes):
            state, part = self._states[: len(contexts) - begin], slice(begin, begin + lanes)
            slot, token = state & _MASK, out[part]
            slots.take(rows[part] | slot, out=token, mode="clip")
            found = ranges.take(tables[part] | token)
            state >>= _SHIFT
            state *= found >> _START_BITS
            found &= _START_MASK
            slot -= found
            state += slot
            hungry = (state < _LOW).nonzero()[0]
            taken = words[at : at + len(hungry)]
            at += len(hungry)
            if len(taken) != len(hungry):
                raise BundleError("coded words end too early")
            state[hungry] = state.take(hungry) << _WORD_BITS | taken
        self._at = at
        escaped = np.flatnonzero(out == ESCAPE)
        if len(escaped):
            out[escaped] = self.raw(np.full(len(escaped), 8, np.int32))
        self._tables.observe(tables, out)
        return out

    def raw(self, widths: _Bits, _: _Bits | None = None) -> _Bits:
        """The next integers without a model, of `widths` (0 to 32) bits each."""
        if not len(widths):
            return np.zeros(0, np.int32)
        ends = np.cumsum(widths, dtype=np.int64)
        first, begins = self._bit >> 5, ends - widths
        begins += self._bit & 31
        self._bit += int(ends[-1])
        if self._bit > self._raw_bits:
            raise BundleError("raw bits end too early")
        words = self._raw[first : (self._bit >> 5) + 2].astype(np.uint64)
        pairs = words[1:] << _WORD_OF_BITS
        pairs |= words[:-1]
        window = pairs.take(begins >> 5)
        begins &= 31
        window >>= begins.view(np.uint64)
        return window.astype(np.int32) & ((np.int32(1) << widths) - np.int32(1))

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
        self._bits = _BitWriter()
        self.cost = 0.0

    def tokens(self, contexts: _Contexts, given: _Tokens | None = None) -> _Tokens:
        """Take one block; returns it."""
        assert given is not None
        self._tables.prepare(contexts, given)
        ranges = self._tables.ranges
        found = ranges.take((contexts << 8) + given)
        escaped = (found < _ONE_START).nonzero()[0]
        if len(escaped):
            self.raw(np.full(len(escaped), 8, np.int32), given[escaped].astype(np.int32))
            found[escaped] = ranges[contexts[escaped] * TOKENS + ESCAPE]
        frequency = found >> _START_BITS
        self._blocks.append((frequency, found & _START_MASK))
        self.cost += float(np.bincount(frequency, minlength=SCALE + 1) @ _BITS)
        self._tables.learn()
        return given

    def raw(self, widths: _Bits, given: _Bits | None = None) -> _Bits:
        """Take integers of `widths` (0 to 32) bits each; returns them."""
        assert given is not None
        self._bits.add(given, widths)
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
        return states, joined, self._bits.finish()


class _BitWriter:
    """Integers of any width from 0 to 32 bits, one after the other, lowest bit first."""

    def __init__(self) -> None:
        self._done: list[bytes] = []
        self._carry, self._filled = np.uint32(0), 0

    def add(self, values: _Bits, widths: _Bits) -> None:
        """Append `values` of `widths` bits each."""
        if not len(values):
            return
        codes, widths = _joined(values.view(np.uint32), widths)
        ends = np.cumsum(widths, dtype=np.int32)
        ends += self._filled
        begins = ends - widths
        word = begins >> 5
        shifted = codes.astype(np.uint64) << (begins & 31).astype(np.uint64)
        first = np.append(0, np.flatnonzero(word[1:] != word[:-1]) + 1)  # each has a beginning
        found = np.bitwise_or.reduceat(shifted, first)  # only a word's last value reaches over
        low, over = found.astype(np.uint32), (found >> _WORD_OF_BITS).astype(np.uint32)
        low[0] |= self._carry
        low[1:] |= over[:-1]
        self._filled = int(ends[-1]) & 31
        whole = int(ends[-1]) >> 5
        self._carry = low[whole] if whole < len(low) else over[-1]
        self._done.append(low[:whole].astype("<u4").tobytes())

    def finish(self) -> bytes:
        """All of them; the last byte is filled with zeros."""
        rest = int(self._carry).to_bytes(4, "little")[: (self._filled + 7) // 8]
        return b"".join([*self._done, rest])


def _joined(
    codes: NDArray[np.uint32], widths: _Bits
) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """The same bits in fewer integers: neighbours joined while any two fit into 32 bits."""
    while len(codes) > 1 and 2 * int(widths.max()) <= 32:
        if len(codes) % 2:
            codes, widths = np.append(codes, np.uint32(0)), np.append(widths, np.int32(0))
        codes = codes[::2] | codes[1::2] << widths[::2].view(np.uint32)
        widths = widths[::2] + widths[1::2]
    return codes, widths
