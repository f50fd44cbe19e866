"""Bounded reading over HTTP: what a device asks for, how much of it, and when to try again.

Nothing here decides whether bytes may be trusted; it decides how many are taken and how long that
may last. A body longer than was allowed is a `TrustError`, since every length is known before it is
asked for. What a server refuses for good is a `RefusedError`; what time may heal is a `BusyError`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urljoin, urlsplit

import msgspec
import urllib3

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.errors import InputError, TrustError, UnavailableError

__all__ = [
    "Body",
    "BusyError",
    "FetchLimits",
    "Fetcher",
    "HttpFetcher",
    "RefusedError",
    "error_for_status",
    "fetch_bytes",
    "too_long",
]

_RETRYABLE = frozenset({408, 421, 425, 429})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)")


class RefusedError(InputError):
    """The server refused for good: asking again for the same thing will not help.

    Attributes:
        status: the HTTP status.
    """

    def __init__(
        self, problem: str, *, status: int, where: object = None, remedy: str | None = None
    ) -> None:
        self.status = status
        super().__init__(problem, where=where, remedy=remedy)


class BusyError(UnavailableError):
    """The server or the way to it fails now: ask again later.

    Attributes:
        retry_after: seconds that the server asks to wait, if it said so.
    """

    def __init__(
        self, problem: str, *, where: object = None, retry_after: float | None = None
    ) -> None:
        self.retry_after = retry_after
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
    status: int, *, where: object, detail: str = "", retry_after: float | None = None
) -> RefusedError | BusyError:
    """The error that an HTTP status other than 2xx means."""
    text = f"the server answered {status}" + (f": {detail}" if detail else "")
    if status in _RETRYABLE or status >= 500:
        return BusyError(text, where=where, retry_after=retry_after)
    remedy = {
        401: "check the device's identity and its clock",
        403: "ask the operator whether this device or token is revoked",
        404: "it is not there; check the address",
    }.get(status)
    return RefusedError(text, status=status, where=where, remedy=remedy)


def too_long(url: str, max_bytes: int) -> TrustError:
    """The error for a resource longer than its signed or agreed length."""
    return TrustError(
        f"the answer is longer than the {max_bytes} bytes expected (endless data)",
        where=url,
        remedy="the server or something on the way to it is not to be trusted",
    )


class HttpFetcher:
    """`Fetcher` over HTTP and HTTPS, on urllib3.

    Args:
        authorize: gives the value of the `Authorization` header, asked for before each request.
        ca_file: PEM file of the authorities to believe, instead of the system's.
        limits: how much and how long.
        clock: measures slowness.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[], str | None] | None = None,
        ca_file: Path | None = None,
        limits: FetchLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._authorize = authorize
        self._limits = limits = limits or FetchLimits()
        self._clock = clock or SystemClock()
        self._pool = urllib3.PoolManager(
            num_pools=4,
            maxsize=2,
            retries=False,
            timeout=urllib3.Timeout(connect=limits.connect_s, read=limits.read_s),
            ca_certs=None if ca_file is None else str(ca_file),
        )

    def open(self, url: str, *, max_bytes: int, start: int = 0) -> AbstractContextManager[Body]:
        return self._opened(url, max_bytes, start)

    @contextmanager
    def _opened(self, url: str, max_bytes: int, start: int) -> Iterator[Body]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        answer = self._request("GET", url, headers, None)
        try:
            begin = _first_byte(answer, url, start)
            length = answer.headers.get("Content-Length", "")
            if length.isdigit() and begin + int(length) > max_bytes:
                raise too_long(url, max_bytes)
            yield _HttpBody(answer, url, begin, max_bytes, self._limits, self._clock)
        finally:
            _finish(answer)

    def send(
        self,
        method: str,
        url: str,
        body: bytes | BinaryIO,
        *,
        content_type: str,
        max_bytes: int = 1 << 20,
    ) -> bytes:
        """Send `body` (bytes, or a file from its present position) and return what is answered.

        Raises:
            RefusedError, BusyError: as `open` does.
            TrustError: the answer is longer than `max_bytes`.
        """
        headers = {"Content-Type": content_type}
        if not isinstance(body, bytes):
            headers["Content-Length"] = str(os.fstat(body.fileno()).st_size - body.tell())
        answer = self._request(method, url, headers, body)
        try:
            return b"".join(_HttpBody(answer, url, 0, max_bytes, self._limits, self._clock))
        finally:
            _finish(answer)

    def close(self) -> None:
        """Close every idle connection."""
        self._pool.clear()

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | BinaryIO | None
    ) -> urllib3.BaseHTTPResponse:
        """The answer to a request, its body unread; redirects within the origin are followed."""
        for _ in range(self._limits.redirects + 1):
            answer = self._once(method, url, headers, body)
            if answer.status not in _REDIRECTS:
                return self._accepted(answer, url)
            _finish(answer)
            url = _redirected(url, answer, may_follow=body is None)
        raise RefusedError("too many redirects", status=310, where=url)

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | BinaryIO | None
    ) -> urllib3.BaseHTTPResponse:
        _require_address(url)
        words = {"Accept-Encoding": "identity", "User-Agent": "skerry", **headers}
        authorization = self._authorize() if self._authorize else None
        if authorization is not None:
            words["Authorization"] = authorization
        try:
            return self._pool.request(
                method, url, headers=words, body=body, preload_content=False, redirect=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise BusyError(f"cannot be reached: {_reason(error)}", where=_origin(url)) from error

    def _accepted(self, answer: urllib3.BaseHTTPResponse, url: str) -> urllib3.BaseHTTPResponse:
        if 200 <= answer.status < 300:
            return answer
        detail = b""
        with suppress(urllib3.exceptions.HTTPError, OSError):
            detail = answer.read1(self._limits.error_bytes)
        _finish(answer)
        wait = answer.headers.get("Retry-After", "")
        seconds = min(float(wait), self._limits.retry_after_s) if wait.isdigit() else None
        raise error_for_status(
            answer.status,
            where=url,
            detail=_printable(detail),
            retry_after=seconds,
        )


class _Reason(msgspec.Struct, frozen=True):
    error: str


class _HttpBody:
    """The body of one answer, counted, and given up where it trickles."""

    def __init__(
        self,
        answer: urllib3.BaseHTTPResponse,
        url: str,
        start: int,
        max_bytes: int,
        limits: FetchLimits,
        clock: Clock,
    ) -> None:
        self.start = start
        self._answer, self._url, self._max = answer, url, max_bytes
        self._limits, self._clock = limits, clock

    def __iter__(self) -> Iterator[bytes]:
        taken, waited = 0, 0.0
        while True:
            began = self._clock.monotonic()
            try:
                chunk = self._answer.read1(self._limits.chunk_bytes)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                problem = f"the answer broke off after {taken} bytes: {_reason(error)}"
                raise BusyError(problem, where=self._url) from error
            if not chunk:
                return
            taken += len(chunk)
            waited += self._clock.monotonic() - began
            if self.start + taken > self._max:
                raise too_long(self._url, self._max)
            slow = taken < waited * self._limits.slow_bytes_per_s
            if slow and waited > self._limits.slow_after_s:
                raise BusyError(f"only {taken} bytes in {waited:.0f} s", where=self._url)
            yield chunk


def _first_byte(answer: urllib3.BaseHTTPResponse, url: str, start: int) -> int:
    """The offset at which the answer begins: what was asked for, or 0."""
    if answer.status != 206:
        return 0
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start:
        raise BusyError("the server answered with another range than was asked for", where=url)
    return start


def _redirected(url: str, answer: urllib3.BaseHTTPResponse, *, may_follow: bool) -> str:
    target = urljoin(url, answer.headers.get("Location", ""))
    if may_follow and _origin(target) == _origin(url):
        return target
    raise RefusedError(
        f"the server redirects to {_origin(target)}, and only its own origin is followed",
        status=answer.status,
        where=url,
        remedy="give the final address of the server",
    )


def _require_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise InputError("is not an address", where=url[:200], remedy="give http:// or https://…")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _finish(answer: urllib3.BaseHTTPResponse) -> None:
    """Give the connection back if its answer was read to the end, else close it."""
    if getattr(answer, "length_remaining", None) == 0:
        answer.drain_conn()
        answer.release_conn()
    else:
        answer.close()


def _reason(error: Exception) -> str:
    text = str(getattr(error, "reason", None) or error) or type(error).__name__
    return text.rpartition("object at 0x")[2].partition(": ")[2] or text


def _printable(data: bytes) -> str:
    """The reason a server gives: the `error` of a JSON answer, or its text."""
    text = data.decode("utf-8", "replace")
    with suppress(msgspec.DecodeError):
        text = msgspec.json.decode(data, type=_Reason).error
    return "".join(sign if sign.isprintable() else " " for sign in text)[:500].strip()
