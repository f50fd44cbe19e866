"""Pictures in class folders, in a folder or a tar: `<class>/<name>.jpg`, classes in name order.

Where the recipe has `model.labels`, `skerry.converter.labels` then numbers them by those. Pictures
of another size are scaled to what callers pass; grey and colour are converted, 16 bits become 8.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from skerry.converter.recipe import Input
from skerry.devices.errors import InputError

__all__ = ["ImageLimits", "decode", "read_images"]

_STEP, _HALF_STEP = 257, 128  # 65535 / 255, between two greys of 8 bits
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm"}


class ImageLimits:
    """What a set of pictures may hold.

    Attributes:
        file_bytes: largest encoded picture.
        pixels: of the largest picture, before scaling.
        total_bytes: of all pictures together, decoded.
    """

    file_bytes = 64 << 20
    pixels = 64 << 20
    total_bytes = 8 << 30


def read_images(path: Path, spec: Input) -> tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...]]:
    """All pictures, their class numbers, and the class names.

    Args:
        path: a folder or a tar.
        spec: the one input, an image of 1 or 3 channels.

    Returns:
        Rows as callers pass them, uint8 or float32 [N, …]; labels [N]; names by number.

    Raises:
        InputError: nothing is there, or a file is no picture.
    """
    if spec.picture is None:
        raise InputError(
            f"pictures do not fit an input of shape {list(spec.shape)}",
            where=path,
            remedy="declare shape = [1 or 3, height, width], or give other data",
        )
    if not np.can_cast(np.uint8, spec.dtype):
        raise InputError(
            f"pictures hold 0 to 255, which {spec.dtype} does not",
            where=path,
            remedy="declare dtype = uint8, and let the graph scale",
        )
    files = sorted(_tar_files(path) if path.is_file() else _folder_files(path))
    names = tuple(sorted({label for label, _, _ in files}))
    if not files:
        raise InputError(
            "holds no pictures", where=path, remedy="put them as <class>/<name>.jpg or .png"
        )
    row_bytes = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    if len(files) * row_bytes > ImageLimits.total_bytes:
        raise InputError(
            f"{len(files)} pictures are more than {ImageLimits.total_bytes >> 30} GiB decoded",
            where=path,
            remedy="take a part of them",
        )
    rows = np.empty((len(files), *spec.caller_shape), spec.dtype)
    for row, (_, name, read) in enumerate(files):
        rows[row] = decode(read(), spec, f"{path}: {name}")
    numbers = {label: number for number, label in enumerate(names)}
    labels = np.array([numbers[label] for label, _, _ in files], np.int64)
    return rows, labels, names


def decode(data: bytes, spec: Input, where: object) -> NDArray[Any]:
    """One encoded picture as callers pass it.

    Raises:
        InputError: the bytes are no picture, or a huge one, or hold numbers of no known range.
    """
    if spec.picture is None:
        raise InputError(f"no picture has the shape {list(spec.shape)}", where=where)
    channels, height, width = spec.picture
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > ImageLimits.pixels:
                raise InputError(f"{image.width}×{image.height} pixels are too many", where=where)
            shown = _eight_bits(image, where).convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"is no picture: {error}", where=where, remedy="remove or replace the file"
        ) from error
    if shown.size != (width, height):
        shown = shown.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(shown, np.uint8).reshape(height, width, channels)
    return pixels if spec.channels_last else np.moveaxis(pixels, -1, 0)


def _eight_bits(image: Image.Image, where: object) -> Image.Image:
    """The picture, its 16-bit greys as 8 bits; Pillow would clip them to white.

    Raises:
        InputError: it holds 32-bit integers or floats, which say nothing of where white is.
    """
    if image.mode in ("I", "F"):
        raise InputError(
            f"holds {'integers' if image.mode == 'I' else 'floats'} of 32 bits a pixel",
            where=where,
            remedy="save it with 8 or 16 bits, or give the numbers as .npz",
        )
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + _HALF_STEP) // _STEP).astype(np.uint8))
    return image


class _Part:
    """A stretch of a file, read when asked for; ordered by nothing."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._path, self._offset, self._size = path, offset, size

    def __call__(self) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            return file.read(self._size)

    def __lt__(self, other: object) -> bool:
        return False


_File = tuple[str, str, _Part]


def _folder_files(path: Path) -> Iterator[_File]:
    found = (one for one in path.glob("*/*") if one.is_file())
    for one in found:
        yield from _file(one.relative_to(path).as_posix(), one, 0, one.stat().st_size)


def _tar_files(path: Path) -> Iterable[_File]:
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    yield from _file(member.name, path, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise InputError(
            f"cannot be read as a tar: {error}", where=path, remedy="give it uncompressed"
        ) from error


def _file(name: str, path: Path, offset: int, size: int) -> Iterator[_File]:
    pure = PurePosixPath(name)
    if pure.suffix.lower() not in _SUFFIXES or len(pure.parts) < 2:
        return
    if size > ImageLimits.file_bytes:
        raise InputError(f"{name} has {size} bytes", where=path, remedy="take a smaller picture")
    yield pure.parts[-2], name, _Part(path, offset, size)
