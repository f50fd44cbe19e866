"""What a device asks of the network: the seam, its limits, and its two kinds of failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from skerry.devices.errors import InputError, TrustError, UnavailableError

__all__ = [
    "Body",
    "BusyError",
    "FetchLimits",
    "Fetcher",
    "RefusedError",
    "Said",
    "error_for_status",
    "fetch_bytes",
    "too_long",
]

_RETRYABLE = frozenset({408, 421, 425, 429})


class Said(msgspec.Struct, frozen=True):
    """How a server says no, in its own words.

    Attributes:
        problem, where, remedy: as of the error that it was there.
        exit_code: of that error.
    """

    problem: str
    exit_code: int
    where: str | None = None
    remedy: str | None = None


class RefusedError(InputError):
    """The server refused for good: asking again for the same thing will not help.

    Attributes:
        status: the HTTP status.
        said: what the server said, if it did.
    """

    def __init__(
        self,
        problem: str,
        *,
        status: int,
        where: object = None,
        remedy: str | None = None,
        said: Said | None = None,
    ) -> None:
        self.status, self.said = status, said
        super().__init__(problem, where=where, remedy=remedy)


class BusyError(UnavailableError):
    """The server or the way to it fails now: ask again later.

    Attributes:
        retry_after: seconds that the server asks to wait, if it said so.
        said: what the server said, if it did.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: object = None,
        retry_after: float | None = None,
        said: Said | None = None,
    ) -> None:
        self.retry_after, self.said = retry_after, said
        super().__init__(problem, where=where, remedy="it will be tried again")


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much and how long one request may take.

    Attributes:
        connect_s: seconds to establish a connection.
        read_s: seconds between two arrivals of bytes.
        chunk_bytes: most bytes handed over at a time.
        redirects: redirects followed within the same origin.
        slow_bytes_per_s, slow_after_s: an answer that is slower than this on average, once it has
            been waited for that long, is given up: it would keep a device busy for ever.
        error_bytes: bytes read of the text that explains an error.
        retry_after_s: longest wait a server may ask for.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    chunk_bytes: int = 65_536
    redirects: int = 3
    slow_bytes_per_s: float = 128.0
    slow_after_s: float = 60.0
    error_bytes: int = 4_096
    retry_after_s: float = 86_400.0


class Body(Protocol):
    """The bytes of an answer, once, in order.

    Attributes:
        start: offset of the first byte; 0 where the server sent the whole instead of the rest.
    """

    @property
    def start(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


class Fetcher(Protocol):
    """The seam to the network."""

    def open(self, url: str, *, max_bytes: int, start: int = 0) -> AbstractContextManager[Body]:
        """Ask for `url` from byte `start` on.

        Args:
            url: what to fetch.
            max_bytes: most bytes the whole resource may have, `start` included.
            start: bytes that are here already.

        Raises:
            RefusedError: the server refused for good (4xx, a redirect to another origin).
            BusyError: it may work later (408, 425, 429, 5xx, reset, stall, cut, wrong range).
            TrustError: the resource is longer than `max_bytes`.
            The last two also while the body is read.
        """


def fetch_bytes(fetcher: Fetcher, url: str, max_bytes: int) -> bytes:
    """All of `url`, at most `max_bytes`. Raises as `Fetcher.open` does."""
    with fetcher.open(url, max_bytes=max_bytes) as body:
        return b"".join(body)


def error_for_status(
    status: int,
    *,
    where: object,
    detail: str = "",
    retry_after: float | None = None,
    said: Said | None = None,
) -> RefusedError | BusyError:
    """The error that an HTTP status other than 2xx means.

    The status alone decides what may be tried again. What the server `said` is carried along, and
    its remedy goes before the one that the status suggests.
    """
    if said is not None:
        detail = said.problem if said.where is None else f"{said.where}: {said.problem}"
    text = f"the server answered {status}" + (f": {detail}" if detail else "")
    if status in _RETRYABLE or status >= 500:
        return BusyError(text, where=where, retry_after=retry_after, said=said)
    remedy = said.remedy if said is not None else None
    remedy = remedy or {
        401: "check the device's identity and its clock",
        403: "ask the operator whether this device or token is revoked",
        404: "it is not there; check the address",
    }.get(status)
    return RefusedError(text, status=status, where=where, remedy=remedy, said=said)


def too_long(url: str, max_bytes: int) -> TrustError:
    """The error for a resource longer than its signed or agreed length."""
    return TrustError(
        f"the answer is longer than the {max_bytes} bytes expected (endless data)",
        where=url,
        remedy="the server or something on the way to it is not to be trusted",
    )
