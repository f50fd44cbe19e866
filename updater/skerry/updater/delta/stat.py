"""What a patch holds, and where its bytes go."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import InputError
from skerry.updater.delta.formats import find_tensors
from skerry.updater.delta.geometry import Geometry, Unsigned
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.program import Kind
from skerry.updater.delta.rans import Decoder
from skerry.updater.delta.segment import Method, ReadBase, Streams, read_streams
from skerry.updater.delta.tensors import code_tensors
from skerry.updater.delta.wire import SEAL_BYTES, Form, Header, Link, PatchFile, Reader, read_header

__all__ = ["DeltaStat", "Part", "stat"]


class Part(msgspec.Struct, frozen=True):
    """One part of a patch.

    Attributes:
        name: what it makes.
        method: how.
        new_bytes: bytes of the result that it makes.
        bytes: bytes of the patch that it takes.
        entropy: order-0 entropy of its residuals in bytes; 0 where there are none.
    """

    name: str
    method: str
    new_bytes: int
    bytes: int
    entropy: float = 0.0

    @property
    def ratio(self) -> float:
        """Patch bytes per byte of the result."""
        return self.bytes / self.new_bytes if self.new_bytes else 0.0


class DeltaStat(msgspec.Struct, frozen=True):
    """What a patch holds.

    Attributes:
        patch_size, new_size: bytes.
        old_size: bytes of the base; None where the base is not read.
        parts: their `bytes` add up to `patch_size`.
    """

    patch_size: int
    new_size: int
    old_size: int | None
    parts: tuple[Part, ...]

    @property
    def ratio(self) -> float:
        """Patch bytes per byte of the result."""
        return self.patch_size / self.new_size if self.new_size else 0.0


def stat(patch: Path, *, old: Path | None = None, limits: Limits | None = None) -> DeltaStat:
    """What `patch` holds.

    Args:
        patch: what `create` wrote.
        old: its base. With it every tensor is told apart and named; without it a segment's tensors
            are one part, for their bits can only be told apart by decoding them.
        limits: what the patch may ask for.

    Raises:
        BundleError: it is malformed.
        InputError: it cannot be read.
    """
    limits = limits or Limits()
    try:
        base = _base(old)
        with patch.open("rb") as opened:
            file = PatchFile(opened)
            header, parts = _patch(file, base, limits)
            file.end()
            return DeltaStat(file.offset, header.new_size, header.old_size, tuple(parts))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=patch) from error


def _patch(file: PatchFile, base: memoryview | None, limits: Limits) -> tuple[Header, list[Part]]:
    """The header of a patch and its parts, its own seal the last."""
    header = read_header(file, limits)
    parts = [Part("header", "", 0, file.offset)]
    if header.form == Form.CHAIN:
        parts += _links(file, header.links, limits)
    made = 0
    while header.form in (Form.BASED, Form.ALONE) and made < header.new_size:
        begin = file.offset
        length = file.varint(header.new_size - made, "segment")
        payload = file.take(file.varint(limits.payload_bytes, "segment"), "segment")
        framing = file.offset - begin - len(payload)
        size = len(base) if base is not None else header.old_size or 0
        parts += _segment(payload, length, framing, base, size, limits)
        made += max(length, 1)
    if header.form != Form.EMPTY:
        file.take(SEAL_BYTES, "seal")
        parts.append(Part("seal", "", 0, SEAL_BYTES))
    return header, parts


def _links(file: PatchFile, count: int, limits: Limits) -> Iterator[Part]:
    """One part for each patch of a chain, with its frame."""
    for number in range(count):
        begin = file.offset
        link = Link(file, file.varint(limits.file_bytes, "chain"))
        header, _ = _patch(PatchFile(link), None, limits)
        link.read_all()
        yield Part(f"patch {number + 1} of {count}", "chain", header.new_size, file.offset - begin)


def _base(old: Path | None) -> memoryview | None:
    if old is None:
        return None
    try:
        with old.open("rb") as file:
            if not old.stat().st_size:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=old) from error


def _segment(
    payload: bytes,
    length: int,
    framing: int,
    base: memoryview | None,
    old_size: int,
    limits: Limits,
) -> list[Part]:
    """The parts of one segment; the first also pays for its frame."""
    reader = Reader(payload, "segment")
    method = reader.byte()
    if method != Method.PROGRAM:
        name = {Method.COPY: "copied", Method.PACKED: "zstd"}.get(Method(method), "?")
        return [Part("bytes", name, length, framing + len(payload))]

    def read(offset: int, count: int) -> bytes:
        return bytes(base[offset : offset + count]) if base is not None else bytes(count)

    marks: list[int] = []
    streams = read_streams(reader, length, read, old_size, limits, marks)
    made = Counter[Kind]()
    for operation in streams.operations:
        made[operation.kind] += operation.length
    ends = [*marks, len(payload)]
    parts = [
        Part("program", "operations", made[Kind.COPY], framing + ends[0]),
        Part("literals", "packed", made[Kind.LITERAL], ends[1] - ends[0]),
        Part("other bytes", "differences", made[Kind.ADD], ends[2] - ends[1]),
    ]
    if streams.coder is None:
        return parts
    if base is None:
        count = sum(op.kind == Kind.TENSOR for op in streams.operations)
        return [*parts, Part(f"{count} tensors", "coded", made[Kind.TENSOR], ends[3] - ends[2])]
    return [*parts, *_tensors(streams, streams.coder, read, base, ends[3] - ends[2])]


class _Meter:
    """A decoder, and how many bits its blocks took."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self.bits = decoder, 0.0

    def tokens(
        self, contexts: NDArray[np.int64], _: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        found = self._decoder.tokens(contexts)
        self.bits += self._decoder.bits(contexts, found)
        return found

    def raw(
        self, widths: NDArray[np.int32], _: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        self.bits += float(widths.sum())
        return self._decoder.raw(widths)


def _tensors(
    streams: Streams, coder: Decoder, read: ReadBase, base: memoryview, size: int
) -> Iterator[Part]:
    """A part for what goes beside the tensors, then one for each; they add up to `size` bytes."""
    names = {tensor.offset: tensor.name for tensor in find_tensors(base)}
    found = [(op.base, op.geometry) for op in streams.operations if op.geometry is not None]
    meter, reached = _Meter(coder), [0.0]

    def old(i: int) -> bytes:
        if len(reached) == 1:  # everything beside the tensors was read just now
            reached.append(meter.bits)
        return read(found[i][0], found[i][1].length)

    made, entropies = [0] * len(found), [0.0] * len(found)
    for i, new in code_tensors(meter, [geometry for _, geometry in found], old):
        made[i] = len(reached)
        reached.append(meter.bits)
        entropies[i] = _entropy(found[i][1], old(i), new)
    shares = _apportioned(np.diff(reached).tolist(), size)
    yield Part("levels, ratios, …", "beside the tensors", 0, shares[0])
    for (offset, geometry), at, entropy in zip(found, made, entropies, strict=True):
        name = names.get(offset, f"at {offset}")
        method = f"subtract {geometry.element.name.lower()}"
        yield Part(name, method, geometry.length, shares[at - 1], round(entropy, 1))


def _entropy(geometry: Geometry, old: bytes, new: Unsigned) -> float:
    """Order-0 entropy of a tensor's residuals in bytes: of byte planes where they are wider."""
    element = geometry.element
    was = element.ordered(geometry.canonical(old))
    now = element.ordered(new)
    values = element.differences(now, was).ravel().astype(np.int64)
    folded = np.where(values < 0, -2 * values - 1, 2 * values)
    total = 0.0
    for plane in range(element.bytes):
        counts = np.bincount(folded >> 8 * plane & 255)
        counts = counts[counts > 0]
        total -= float((counts * np.log2(counts / counts.sum())).sum())
    return total / 8


def _apportioned(weights: Sequence[float], total: int) -> list[int]:
    """`total` in whole parts in proportion to the weights."""
    sums = np.cumsum(weights)
    edges = np.rint(sums * (total / sums[-1])).astype(int) if sums[-1] else np.zeros(len(sums), int)
    edges[-1] = total
    return [int(share) for share in np.diff(edges, prepend=0)]
