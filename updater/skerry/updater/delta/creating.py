"""Make a patch: the old file and the new → the fewest bytes that lead from one to the other."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from skerry.devices.digest import Descriptor, digest_file
from skerry.devices.errors import CancelledError, InputError
from skerry.devices.files import Disk, RealDisk, replacing
from skerry.updater.delta.formats import find_tensors
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.matching import Match, match
from skerry.updater.delta.outputs import check_output
from skerry.updater.delta.packing import pack_copy, pack_program, pack_whole, quick_size
from skerry.updater.delta.program import Kind, Operation
from skerry.updater.delta.stat import DeltaStat, stat
from skerry.updater.delta.structure import Gaps, align
from skerry.updater.delta.turns import in_turn
from skerry.updater.delta.wire import Form, Header, base_digest, seal, varint, write_header

__all__ = ["create"]

_SEGMENT_BYTES = 6 << 20
_DICTIONARY_BYTES = 16 << 20
_SPARSE = 4096
_SAMPLE_BYTES = 1 << 17
_LARGE_BYTES = 3 * _SAMPLE_BYTES
_WORTH, _WORTH_LARGE = 1.3, 1.0


def create(
    old: Path,
    new: Path,
    patch: Path,
    *,
    limits: Limits | None = None,
    reached: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    disk: Disk | None = None,
) -> DeltaStat:
    """Write the patch that makes `new` from `old`.

    Args:
        old, new: any two files.
        patch: where the patch goes, neither of the two; replaced atomically.
        limits: what the decoder will allow.
        reached: told after each segment how many bytes of `new` it makes.
        cancelled: asked before each segment.
        disk: the seam through which the patch is written.

    Returns:
        What the patch holds.

    Raises:
        InputError: a file cannot be read, or is larger than `limits.file_bytes`; `patch` is one of
            the two, or a folder.
        CancelledError: `cancelled` said so.
        UnavailableError: the disk is full or not writable.
    """
    limits, disk = limits or Limits(), disk or RealDisk()
    check_output(patch, old=old, new=new)
    with _mapped(old, limits) as base, _mapped(new, limits) as target:
        was, now = (digest_file(path) for path in (old, new))
        with replacing(patch, disk=disk) as out:
            header = _header(was, now)
            state = hashlib.sha256()
            for part, made in _parts(header, base, target, old, new):
                if cancelled is not None and cancelled():
                    raise CancelledError("the patch was not made to its end", where=patch)
                state.update(part)
                disk.write(out, part)
                if reached is not None:
                    reached(made)
            if header.form != Form.EMPTY:
                disk.write(out, seal(state, bytes.fromhex(now.digest.hex)))
    return stat(patch)


def _header(was: Descriptor, now: Descriptor) -> Header:
    if not now.size:
        return Header(Form.EMPTY, 0)
    if was == now:
        return Header(Form.SAME, now.size)
    if not was.size:
        return Header(Form.ALONE, now.size)
    return Header(Form.BASED, now.size, was.size, base_digest(bytes.fromhex(was.digest.hex)))


def _parts(
    header: Header, base: memoryview, target: memoryview, old: Path, new: Path
) -> Iterator[tuple[bytes, int]]:
    """The patch but for its seal, the header, then each segment; and how much each makes."""
    yield write_header(header), 0
    if header.form in (Form.BASED, Form.ALONE):
        yield from _segments(base, target, old, new)


@contextmanager
def _mapped(path: Path, limits: Limits) -> Iterator[memoryview]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > limits.file_bytes:
                raise InputError(f"larger than {limits.file_bytes} bytes", where=path)
            if not size:
                yield memoryview(b"")
                return
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except IsADirectoryError as error:
        remedy = "pack it into a tar first, as a bundle carries a Core ML package"
        raise InputError("is a folder", where=path, remedy=remedy) from error
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=path) from error


def _plan(
    base: memoryview, target: memoryview, old: Path, new: Path
) -> list[tuple[int, Operation]]:
    """Operations that make `target`, with the offset of each, as far as tensors are known."""
    pairs = match(find_tensors(base, old), find_tensors(target, new), base, target)
    found: list[tuple[int, Operation]] = []
    for pair in pairs:
        length, at = pair.new.length, pair.new.offset
        was = base[pair.base : pair.base + length]
        if was == target[at : at + length]:
            found.append((at, Operation(Kind.COPY, length, pair.base)))
        elif _sparse(was, target[at : at + length], pair):
            found.append((at, Operation(Kind.ADD, length, pair.base)))
        else:
            found.extend(_pieces(at, pair))
    taken = sorted({(pair.base, pair.new.length) for pair in pairs})
    rest = align(Gaps(base, taken), Gaps(target, [(p.new.offset, p.new.length) for p in pairs]))
    return sorted([*found, *rest], key=lambda entry: entry[0])


def _sparse(was: memoryview, now: memoryview, pair: Match) -> bool:
    """Whether so little changed that the changes alone are worth telling."""
    if pair.geometry.old_order != pair.geometry.new_order:
        return False
    changed = np.count_nonzero(np.frombuffer(was, np.uint8) != np.frombuffer(now, np.uint8))
    return int(changed) * _SPARSE < pair.geometry.length


def _pieces(at: int, pair: Match) -> Iterator[tuple[int, Operation]]:
    """A tensor's operation, or several of about as many rows each where it is large.

    What a coder has learnt of a piece is lost on the next, so that few large ones are better than
    many, and equal ones better than a large and a small one.
    """
    geometry = pair.geometry
    height, width, rows, columns = geometry.sizes
    plain = geometry.old_order == geometry.new_order
    outermost = next((axis for axis in geometry.new_order if geometry.sizes[axis] > 1), 3)
    if geometry.length <= _SEGMENT_BYTES or not plain or outermost not in (2, 3):
        yield at, Operation(Kind.TENSOR, geometry.length, pair.base, geometry)
        return
    size = geometry.sizes[outermost]
    each = geometry.length // size
    step = -(-size // -(-geometry.length // _SEGMENT_BYTES))
    for first in range(0, size, step):
        count = min(step, size - first)
        sizes = (height, width, count, columns) if outermost == 2 else (height, width, rows, count)
        part = replace(geometry, sizes=sizes)
        yield (
            at + first * each,
            Operation(Kind.TENSOR, part.length, pair.base + first * each, part),
        )


def _merged(planned: Sequence[tuple[int, Operation]]) -> list[Operation]:
    """Neighbouring copies and literals made one."""
    merged: list[Operation] = []
    for _, operation in planned:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.kind == operation.kind != Kind.TENSOR
            and (last.kind == Kind.LITERAL or last.base + last.length == operation.base)
        ):
            merged[-1] = replace(last, length=last.length + operation.length)
        else:
            merged.append(operation)
    return merged


def _cuts(operations: Sequence[Operation], size: int) -> Iterator[Sequence[Operation]]:
    """Operations in groups that make one segment each."""
    most = size if 3 * size <= 4 * _SEGMENT_BYTES else _SEGMENT_BYTES
    group: list[Operation] = []
    filled = 0
    for operation in operations:
        rest = operation
        while filled + rest.length > most:
            room = most - filled
            if rest.kind == Kind.TENSOR or not room:
                yield group
                group, filled = [], 0
                if rest.kind == Kind.TENSOR:
                    break
                continue
            group.append(replace(rest, length=room))
            rest = replace(rest, length=rest.length - room, base=rest.base + room)
            yield group
            group, filled = [], 0
        group.append(rest)
        filled += rest.length
    if group:
        yield group


def _segments(
    base: memoryview, target: memoryview, old: Path, new: Path
) -> Iterator[tuple[bytes, int]]:
    groups = list(_cuts(_merged(_plan(base, target, old, new)), len(target)))
    begins = accumulate((_length(group) for group in groups), initial=0)
    jobs = (
        partial(_segment, group, base, target[at : at + _length(group)], at)
        for group, at in zip(groups, begins, strict=False)
    )
    yield from in_turn(jobs)


def _length(operations: Sequence[Operation]) -> int:
    return sum(operation.length for operation in operations)


def _segment(
    operations: Sequence[Operation], base: memoryview, target: memoryview, begin: int
) -> tuple[bytes, int]:
    """The framed segment that makes `target`, which lies at `begin` of the new file; its size."""
    if len(operations) == 1 and operations[0].kind == Kind.COPY:
        payload = pack_copy(operations[0].base)
    else:
        payload = pack_program(operations, base, target)
        tensors = sum(op.length for op in operations if op.kind == Kind.TENSOR)
        low = max(0, min(begin - _SEGMENT_BYTES, len(base) - _DICTIONARY_BYTES))
        near, data = base[low : low + _DICTIONARY_BYTES], bytes(target)
        large = 2 * tensors > len(data) > _LARGE_BYTES
        for dictionary in (base[:0], near):
            if large:
                quick = _sampled_size(data, begin, dictionary and base)
            else:
                quick = quick_size(data, dictionary) / len(data)
            if quick * len(data) < (_WORTH_LARGE if large else _WORTH) * len(payload):
                whole = pack_whole(data, dictionary, low, thorough=not len(dictionary))
                payload = min(payload, whole, key=len)
    return varint(len(target)) + varint(len(payload)) + payload, len(target)


def _sampled_size(data: bytes, begin: int, base: memoryview) -> float:
    """About how large each byte of `data` would be, from a part in its middle.

    Args:
        data: a segment's bytes.
        begin: where they lie in the new file.
        base: the base; a part of it at about the same place serves as dictionary.
    """
    middle = (len(data) - _SAMPLE_BYTES) // 2
    low = max(0, begin + middle - _SAMPLE_BYTES)
    part = data[middle : middle + _SAMPLE_BYTES]
    return quick_size(part, base[low : low + 3 * _SAMPLE_BYTES]) / len(part)
