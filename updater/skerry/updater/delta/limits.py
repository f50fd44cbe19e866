"""What a patch may ask for. A decoder refuses more before it takes any memory."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one patch and of the work on it.

    Attributes:
        file_bytes: largest old or new file.
        segment_bytes: most new bytes that one segment makes, unless it only copies.
        payload_bytes: most packed bytes of one segment.
        dictionary_bytes: most bytes of the base that a segment may use as a dictionary.
        segments: most segments in a patch.
        links: most patches in a chain.
        link_bytes: largest file that a chain makes on the way to its result.
        operations: most operations in the program of one segment.
        lanes: most lanes of a tensor stream.
        lane_bytes: most bytes of tensors for each lane, which bounds the steps of a decoder.
        shapes: most tensor geometries in the program of one segment.
    """

    file_bytes: int = 1 << 40
    segment_bytes: int = 8 * _MIB
    payload_bytes: int = 9 * _MIB
    dictionary_bytes: int = 16 * _MIB
    segments: int = 1 << 20
    links: int = 8
    link_bytes: int = 1 << 30
    operations: int = 1 << 18
    shapes: int = 4096
    lanes: int = 1 << 14
    lane_bytes: int = 1 << 18
