"""A window: everything a device tells of one artifact over one stretch of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from skerry.devices.errors import InputError
from skerry.runtime.sketches import SketchSet
from skerry.telemetry.histogram import Histogram

__all__ = ["ClockState", "Window", "WindowLimits"]

ClockState = Literal["synced", "unsynced", "unknown"]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
_Time = Annotated[float, msgspec.Meta(ge=0, le=2.0**40)]
_Kind = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """What an encoded window may weigh.

    Attributes:
        window_bytes: longest encoded window.
        errors: most kinds of error.
    """

    window_bytes: int = 256 << 10
    errors: int = 64


_LIMITS = WindowLimits()


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One aggregated record.

    Attributes:
        start, end: seconds since the Unix epoch by the device's clock.
        clock: whether that clock is known to be right.
        manifest: the bundle's manifest digest.
        artifact: the artifact's name.
        requests, rows: calls, answered or not, and rows of the answered ones.
        errors: failed calls by kind.
        latency: seconds of the answered calls.
        classes: output name to the count of each argmax.
        sketches: an encoded `SketchSet` of features and confidences; empty if there is none.
        rss_bytes: resident memory of the process at the end.
        cpu_seconds: processor time of the process during the window.
    """

    start: _Time
    end: _Time
    manifest: _Digest
    artifact: _Name
    clock: ClockState = "unknown"
    requests: _Count = 0
    rows: _Count = 0
    errors: dict[_Kind, _Count] = {}
    latency: Histogram = msgspec.field(default_factory=Histogram)
    classes: dict[_Name, list[_Count]] = {}
    sketches: bytes = b""
    rss_bytes: _Count = 0
    cpu_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    @property
    def failures(self) -> int:
        """Calls that were not answered."""
        return sum(self.errors.values())

    def sketch_set(self) -> SketchSet:
        """The sketches, decoded; an empty set if there are none. InputError if they are damaged."""
        return SketchSet.decode(self.sketches) if self.sketches else SketchSet()

    def encode(self) -> bytes:
        """The window as msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes, *, limits: WindowLimits = _LIMITS) -> Window:
        """Read `encode`'s bytes, which may come from anywhere.

        Raises:
            InputError: malformed or beyond `limits`.
        """
        if len(data) > limits.window_bytes:
            raise InputError(f"{len(data)} bytes, at most {limits.window_bytes}", where="window")
        try:
            window = msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"malformed: {error}", where="window") from error
        if len(window.errors) > limits.errors or window.end < window.start:
            raise InputError("errors or times are out of range", where="window")
        window.sketch_set()
        return window
