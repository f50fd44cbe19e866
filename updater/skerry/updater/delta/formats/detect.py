"""Tell a file's format by its bytes, and find its tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from skerry.updater.delta.formats.arrays import numpy_tensors, safetensors_tensors
from skerry.updater.delta.formats.base import MOST_TENSORS, FormatError, Tensor
from skerry.updater.delta.formats.coreml import weight_shapes, weight_tensors
from skerry.updater.delta.formats.onnx import external_tensors, onnx_tensors
from skerry.updater.delta.formats.ort import ort_tensors
from skerry.updater.delta.formats.tflite import tflite_tensors

__all__ = ["find_tensors"]

_TAR_BLOCK = 512
_MEMBERS = 65_536
_ONNX_BYTES = 2 << 30


def find_tensors(data: memoryview, path: Path | None = None) -> Sequence[Tensor]:
    """The tensors of a file, in the order of their offsets, none overlapping another.

    A file whose format is not known, or that is not what its format says, has none.

    Args:
        data: the whole file.
        path: where it is; beside it may lie the ONNX file whose weights it holds.
    """
    found = list(_found(partial(_whole, data)))
    if not found and path is not None:
        found = list(_found(partial(_beside, path)))
    found.sort(key=lambda tensor: (tensor.offset, -tensor.length))
    kept: list[Tensor] = []
    end = 0
    for tensor in found[:MOST_TENSORS]:
        if tensor.length and end <= tensor.offset <= len(data) - tensor.length:
            kept.append(tensor)
            end = tensor.offset + tensor.length
    return kept


def _found(walk: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
    try:
        yield from walk()
    except (FormatError, struct.error, IndexError, OverflowError, RecursionError):
        return


def _whole(data: memoryview) -> Iterator[Tensor]:
    start = bytes(data[:12])
    if start[4:8] == b"TFL3":
        yield from tflite_tensors(data)
    elif start[4:8] == b"ORTM":
        yield from ort_tensors(data)
    elif start[:6] == b"\x93NUMPY":
        yield from numpy_tensors(data)
    elif start[8:9] == b"{" and start[5:8] == b"\0\0\0":
        yield from safetensors_tensors(data)
    elif bytes(data[257:262]) == b"ustar":
        yield from _tar(data)
    elif start[:1] == b"\x08" and len(data) < _ONNX_BYTES:
        yield from onnx_tensors(data)


def _beside(path: Path) -> Iterator[Tensor]:
    """The tensors of an ONNX file's external data, as the ONNX file beside it tells."""
    for model in sorted(path.parent.glob("*.onnx"))[:16]:
        if model.stat().st_size < _ONNX_BYTES:
            yield from external_tensors(memoryview(model.read_bytes()), path.name)


def _tar(data: memoryview) -> Iterator[Tensor]:
    """The tensors of a tar's members; a Core ML package is one of these."""
    members = list(_members(data))
    shapes: dict[int, tuple[int, ...]] = {}
    for name, begin, end in members:
        if name.endswith(".mlmodel"):
            shapes = weight_shapes(data, begin, end)
    for name, begin, end in members:
        if name.endswith("weight.bin"):
            inside: Iterator[Tensor] = weight_tensors(data, begin, end, shapes)
        else:
            part = data[begin:end]
            inside = (
                replace(tensor, offset=tensor.offset + begin)
                for tensor in _found(partial(_whole, part))
            )
        for tensor in inside:
            yield replace(tensor, name=f"{name}/{tensor.name}")


def _members(data: memoryview) -> Iterator[tuple[str, int, int]]:
    at = 0
    for _ in range(_MEMBERS):
        head = bytes(data[at : at + _TAR_BLOCK])
        if len(head) < _TAR_BLOCK or not head[0]:
            return
        digits = head[124:136].rstrip(b" \0")
        if not digits.isdigit():
            raise FormatError("a tar member without a size")
        size, begin = int(digits, 8), at + _TAR_BLOCK
        if begin + size > len(data):
            raise FormatError("a tar member reaches beyond its file")
        if head[156:157] in (b"0", b"\0"):
            yield head[:100].rstrip(b"\0").decode("utf-8", "replace"), begin, begin + size
        at = begin + size + -size % _TAR_BLOCK
