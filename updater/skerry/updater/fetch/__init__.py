"""Bounded reading over HTTP: what a device asks for, how much of it, and when to try again.

Nothing here decides whether bytes may be trusted; it decides how many are taken and how long that
may last. A body longer than was allowed is a `TrustError`, since every length is known before it is
asked for. What a server refuses for good is a `RefusedError`; what time may heal is a `BusyError`.
"""

from skerry.updater.fetch.base import (
    Body,
    BusyError,
    Fetcher,
    FetchLimits,
    RefusedError,
    Said,
    error_for_status,
    fetch_bytes,
    too_long,
)
from skerry.updater.fetch.http import HttpFetcher
from skerry.updater.fetch.telling import plainly

__all__ = [
    "Body",
    "BusyError",
    "FetchLimits",
    "Fetcher",
    "HttpFetcher",
    "RefusedError",
    "Said",
    "error_for_status",
    "fetch_bytes",
    "plainly",
    "too_long",
]
