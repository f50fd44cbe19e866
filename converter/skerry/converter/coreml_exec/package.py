"""An `.mlpackage` folder: its manifest, its model specification and its weight files, all of them
untrusted."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.converter.coreml_exec.dtypes import ElementType, unpack_bits
from skerry.devices.errors import BundleError
from skerry.devices.files import confined

__all__ = ["Package", "PackageLimits", "from_bytes"]

_MODEL_PATH = "@model_path/"
_SENTINEL = 0xDEADBEEF
_BLOB_HEADER = struct.Struct("<IIQQQ")  # sentinel, dtype, size in bytes, offset of data, padding
# The storage format's own dtype numbers, by MIL name (coremltools' StorageFormat.hpp).
_STORAGE_TYPES = {
    "fp16": 1,
    "fp32": 2,
    "uint8": 3,
    "int8": 4,
    "int16": 6,
    "uint16": 7,
    "int4": 8,
    "uint1": 9,
    "uint2": 10,
    "uint4": 11,
    "uint3": 12,
    "uint6": 13,
    "int32": 14,
    "uint32": 15,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageLimits:
    """What a package may be.

    Attributes:
        manifest_bytes: largest Manifest.json.
        specification_bytes: largest model specification (weights lie outside it).
        weight_bytes: largest weight file.
    """

    manifest_bytes: int = 1 << 20
    specification_bytes: int = 256 << 20
    weight_bytes: int = 8 << 30


class _Item(msgspec.Struct):
    path: str


class _Manifest(msgspec.Struct, rename="camel"):
    item_info_entries: dict[str, _Item]
    root_model_identifier: str


class Package:
    """The files of one `.mlpackage`.

    Args:
        path: the folder.

    Raises:
        BundleError: it is not a package, or leaves its folder, or is over a limit.
    """

    def __init__(self, path: Path, limits: PackageLimits | None = None) -> None:
        self.path = path
        self._limits = limits or PackageLimits()
        manifest = self._manifest()
        item = manifest.item_info_entries.get(manifest.root_model_identifier)
        if item is None:
            raise BundleError("its manifest names no root model", where=path)
        self._model = confined(path / "Data", item.path)
        self._files: dict[str, NDArray[np.uint8]] = {}

    def specification(self) -> bytes:
        """The bytes of the model specification (a protobuf `Model`)."""
        return _read(self._model, self._limits.specification_bytes)

    def blob(
        self, file: str, offset: int, kind: ElementType, shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """One tensor of a weight file, every bound checked against the file first."""
        data = self._file(file)
        where = f"{self.path}: {file} at {offset}"
        if offset + _BLOB_HEADER.size > len(data):
            raise BundleError("a weight lies outside its file", where=where)
        sentinel, stored, size, start, _ = _BLOB_HEADER.unpack_from(data.data, offset)
        if sentinel != _SENTINEL:
            raise BundleError("no weight begins here", where=where)
        if stored != _STORAGE_TYPES.get(kind.name):
            raise BundleError(f"the weight is not of the type {kind.name}", where=where)
        count = _product(shape)
        needed = (count * kind.bits + 7) // 8
        if size < needed or start + needed > len(data):
            raise BundleError(f"a weight of {shape} {kind.name} does not fit its file", where=where)
        return from_bytes(data[start : start + needed], kind, shape)

    def _manifest(self) -> _Manifest:
        path = self.path / "Manifest.json"
        try:
            return msgspec.json.decode(_read(path, self._limits.manifest_bytes), type=_Manifest)
        except msgspec.DecodeError as error:
            raise BundleError(f"not a Core ML package manifest: {error}", where=path) from error

    def _file(self, name: str) -> NDArray[np.uint8]:
        """A weight file, mapped."""
        if name not in self._files:
            if not name.startswith(_MODEL_PATH):
                raise BundleError(f"weights at {name!r} lie outside the package", where=self.path)
            path = confined(self._model.parent, name.removeprefix(_MODEL_PATH))
            _size(path, self._limits.weight_bytes)
            self._files[name] = np.memmap(path, np.uint8, mode="r")
        return self._files[name]


def from_bytes(data: Any, kind: ElementType, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array from stored bytes, of which there are enough."""
    count = _product(shape)
    if kind.bits < 8:
        flat = unpack_bits(np.frombuffer(data, np.uint8), kind, count)
    else:
        flat = np.frombuffer(data, np.dtype(kind.numpy).newbyteorder("<"), count)
    return flat.reshape(shape)


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _size(path: Path, limit: int) -> int:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", where=path) from error
    if not 0 < size <= limit:
        raise BundleError(f"{size} bytes, where 1 to {limit} are accepted", where=path)
    return size


def _read(path: Path, limit: int) -> bytes:
    size = _size(path, limit)
    with path.open("rb") as file:
        return file.read(size)
