"""Byte streams inside a segment, each packed by whichever of a few general methods is smallest."""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from skerry.devices.errors import BundleError
from skerry.updater.delta.wire import Reader, varint

if sys.version_info >= (3, 14) and not TYPE_CHECKING:
    from compression import zstd
else:
    from backports import zstd

__all__ = ["RAW", "pack", "sized", "unpack"]

RAW = 0
_ZSTD, _BZ2, _LZMA = 1, 2, 3
_WINDOW_LOG = 24
_ZSTD_LEVEL = 19
_SMALL_BYTES = 4 << 20
_MAGICLESS_DROP = 4


def _lzma_filters(size: int) -> list[dict[str, Any]]:
    """LZMA1 with a dictionary that just holds `size` bytes (4 KiB to 16 MiB)."""
    dictionary = min(max(1 << (size - 1).bit_length() if size else 0, 1 << 12), 1 << _WINDOW_LOG)
    return [{"id": lzma.FILTER_LZMA1, "preset": 9, "dict_size": dictionary, "lc": 3, "pb": 0}]


def _zstd_dictionary(base: bytes | memoryview) -> Any:
    return zstd.ZstdDict(bytes(base), is_raw=True).as_prefix if len(base) >= 8 else None


def pack(
    data: bytes, base: bytes | memoryview = b"", *, thorough: bool = True, level: int = _ZSTD_LEVEL
) -> bytes:
    """`data` packed for `unpack`: a codec byte, then its bytes.

    Args:
        data: at most a segment's worth.
        base: what the decoder has too, as a dictionary.
        thorough: whether to try every codec.
        level: zstd's.
    """
    return min(_candidates(data, base, thorough, level), key=len)


def _candidates(
    data: bytes, base: bytes | memoryview, thorough: bool, level: int
) -> Iterable[bytes]:
    yield bytes([RAW]) + data
    if not data:
        return
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: level,
        parameter.content_size_flag: 0,
        parameter.checksum_flag: 0,
        parameter.dict_id_flag: 0,
    }
    if len(base) + len(data) > 1 << 17:
        options[parameter.window_log] = min(
            max((len(base) + len(data)).bit_length(), 17), _WINDOW_LOG
        )
        options[parameter.enable_long_distance_matching] = 1
    packed = zstd.compress(data, options=options, zstd_dict=_zstd_dictionary(base))
    yield bytes([_ZSTD]) + packed[_MAGICLESS_DROP:]
    if thorough and len(data) <= _SMALL_BYTES:
        yield bytes([_BZ2]) + bz2.compress(data, 9)
        yield bytes([_LZMA]) + lzma.compress(
            data, lzma.FORMAT_RAW, filters=_lzma_filters(len(data))
        )


def unpack(packed: bytes | memoryview, size: int, base: bytes | memoryview = b"") -> bytes:
    """The `size` bytes that were packed; never more memory than `size` and a bounded window.

    Raises:
        BundleError: `packed` is not what `pack` makes, or gives another number of bytes.
    """
    reader = Reader(packed, "packed stream")
    codec = reader.byte()
    body = bytes(reader.take(reader.left))
    try:
        match codec:
            case 0:
                data = body
            case 1:
                data = _unpack_zstd(body, size, base)
            case 2:
                data = bz2.BZ2Decompressor().decompress(body, size + 1)
            case 3:
                decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_lzma_filters(size))
                data = decoder.decompress(body, size + 1)
            case _:
                raise BundleError(f"unknown codec {codec}", remedy="update skerry")
    except (zstd.ZstdError, OSError, lzma.LZMAError, EOFError, ValueError) as error:
        raise BundleError(f"a packed stream is damaged: {error}") from error
    if len(data) != size:
        raise BundleError(f"a packed stream gives other than its {size} bytes")
    return data


def _unpack_zstd(body: bytes, size: int, base: bytes | memoryview) -> bytes:
    decoder = zstd.ZstdDecompressor(
        zstd_dict=_zstd_dictionary(base),
        options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG + 1},
    )
    return decoder.decompress(b"\x28\xb5\x2f\xfd" + body, size + 1)


def sized(data: bytes) -> bytes:
    """`data` after its length."""
    return varint(len(data)) + data
