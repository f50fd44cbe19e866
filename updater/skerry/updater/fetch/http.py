"""The real network: HTTP and HTTPS on urllib3, within limits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import msgspec
import urllib3

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.errors import InputError
from skerry.updater.fetch.base import (
    Body,
    BusyError,
    FetchLimits,
    RefusedError,
    error_for_status,
    too_long,
)
from skerry.updater.fetch.telling import parse_said, printable

__all__ = ["HttpFetcher"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)")


class HttpFetcher:
    """`Fetcher` over HTTP and HTTPS, on urllib3.

    Args:
        authorize: gives the value of the `Authorization` header, asked for before each request.
        ca_file: PEM file of the authorities to believe, instead of the system's.
        ca: the same as text.
        limits: how much and how long.
        clock: measures slowness.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[], str | None] | None = None,
        ca_file: Path | None = None,
        ca: str = "",
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
            ca_cert_data=ca or None,
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
                method,
                url,
                headers=words,
                body=body,
                preload_content=False,
                decode_content=False,
                redirect=False,
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
            detail=_reason_given(detail),
            retry_after=seconds,
            said=parse_said(detail),
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


def _reason_given(data: bytes) -> str:
    """The reason a server gives: the `error` of a JSON answer, or its text."""
    text = data.decode("utf-8", "replace")
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = msgspec.json.decode(data, type=_Reason).error
    return printable(text)
