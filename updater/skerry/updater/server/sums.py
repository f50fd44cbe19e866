"""Windows added up, so that a view of the fleet reads one row for each device."""

from __future__ import annotations

import msgspec

from skerry.telemetry.histogram import Histogram
from skerry.telemetry.window import Window
from skerry.updater.server.records import Totals

__all__ = ["added"]

_MOST = 2**62


def added(before: Totals | None, device: str, window: Window) -> Totals:
    """The sums after one more window."""
    if before is None:
        latency = Histogram()
        before = Totals(device, window.manifest, window.artifact, 0, 0, 0, 0, latency, 0.0, 0)
    latency = msgspec.structs.replace(before.latency, buckets=dict(before.latency.buckets))
    latency.merge(window.latency)
    return msgspec.structs.replace(
        before,
        artifact=window.artifact,
        windows=before.windows + 1,
        requests=min(_MOST, before.requests + window.requests),
        rows=min(_MOST, before.rows + window.rows),
        errors=min(_MOST, before.errors + window.failures),
        latency=latency,
        last_end=max(before.last_end, window.end),
        rss_bytes=window.rss_bytes,
    )
