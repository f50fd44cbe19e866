"""HTTP/1.1 on asyncio and httptools: bounded requests in, replies out in order. No routes here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast
from urllib.parse import unquote

import httptools
import msgspec

from skerry.runtime.serve.busypoll import BusyPoll
from skerry.runtime.serve.limits import ServeLimits

__all__ = ["JSON", "Connection", "Done", "Reply", "Request", "Responder", "error_reply"]

JSON = b"application/json"
_PAUSE_BYTES = 64 << 10
_LINGER_S = 2.0
_HEAD_END = b"\r\n\r\n"
_SMALL_BYTES = 1 << 20
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request:
    """One request.

    Attributes:
        method: `GET`, `POST`, ….
        url: as sent.
        path: the url decoded, without the query.
        headers: the last value of each, by lower-case name.
        body: as sent.
    """

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "url")

    def __init__(self) -> None:
        self.url = b""
        self.path = ""
        self.method = ""
        self.headers: dict[bytes, bytes] = {}
        self.body: bytes = b""
        self.keep_alive = True


class _Known(NamedTuple):
    """A head that was parsed: its bytes, its length with the body, and what it says."""

    head: bytes
    size: int
    request: Request


class Reply(NamedTuple):
    """A response: status, body, content type, further headers."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Done = Callable[[Reply], None]


class Responder(Protocol):
    """What answers requests."""

    def respond(self, request: Request, done: Done) -> Callable[[], None] | None:
        """Call `done` once with the reply, now or later, on the event loop. Must not raise.

        Returns:
            What gives the request up before `done` was called, if that can be.
        """


def error_reply(status: int, text: str, *headers: tuple[bytes, bytes]) -> Reply:
    """The reply that tells a client of an error: `{"error": text}`."""
    return Reply(status, msgspec.json.encode({"error": text}), JSON, headers)


class Connection(asyncio.Protocol):
    """One client's connection. Requests are answered one after the other, in their order.

    Args:
        peers: the open connections of the server, which this one joins and leaves.
        refused: told the status of each request that was refused here.
        awake: keeps the loop awake for the next request; the server's.

    Attributes:
        expires: when the connection may be closed for having been silent, in the loop's time.
    """

    def __init__(
        self,
        responder: Responder,
        limits: ServeLimits,
        peers: set[Connection],
        refused: Callable[[int], None],
        awake: BusyPoll,
    ) -> None:
        self._responder, self._limits, self._peers = responder, limits, peers
        self._refused, self._awake = refused, awake
        self._parser = httptools.HttpRequestParser(self)
        self._clock = asyncio.get_running_loop().time
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._queue: deque[Request] = deque()
        self._current: Request | None = None
        self._give_up: Callable[[], None] | None = None
        self._completed = 0
        self._last: Request | None = None
        self._known: _Known | None = None
        self._answering = False
        self._closing = False
        self._crowded = False
        self.expires = 0.0

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods
        self._transport.set_write_buffer_limits(high=_PAUSE_BYTES)
        self.expires = self._clock() + self._limits.request_s
        if len(self._peers) >= self._limits.connections:
            self._refuse(503, "too many connections", (b"retry-after", b"1"))
            transport.close()
            return
        self._peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's form
        self._transport = None
        self._peers.discard(self)
        self._queue.clear()
        if self._give_up is not None:
            self._give_up()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._awake.arrived()
        known = self._known
        if (
            known is not None
            and len(data) == known.size
            and self._request is None
            and self._current is None
            and data.startswith(known.head)
        ):
            self._repeat(known, data)
            return
        at_start, self._completed = self._request is None, 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._closing:
                self._refuse(400, f"not HTTP/1.1: {error}")
            return
        if at_start and self._completed == 1 and self._request is None:
            self._learn(data)

    def _learn(self, data: bytes) -> None:
        """Remember the head of `data`, which is one request from its first byte to its last.

        Most clients send one head over and over. Its bytes were parsed and checked; the same bytes
        again, at the start of a request, with a body of the same length, mean the same.
        """
        last = self._last
        assert last is not None
        size = len(last.body)
        head = data[: len(data) - size]
        plain = last.headers.keys().isdisjoint((b"transfer-encoding", b"expect"))
        told = last.headers.get(b"content-length") == b"%d" % size
        if last.keep_alive and plain and told and head.endswith(_HEAD_END):
            self._known = _Known(head, len(data), last)

    def _repeat(self, known: _Known, data: bytes) -> None:
        """Answer a request whose head was parsed before."""
        request, like = Request(), known.request
        request.url, request.path, request.method = like.url, like.path, like.method
        request.headers, request.body = like.headers, data[len(known.head) :]
        self._size = known.size
        self._answer(request)

    def pause_writing(self) -> None:
        self._crowded = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._crowded = False
        if self._transport is not None and self._current is None:
            self._transport.resume_reading()

    # httptools' side; what raises here ends the parse

    def on_message_begin(self) -> None:
        self._request = Request()
        self._size = 0
        self.expires = self._clock() + self._limits.request_s

    def on_url(self, url: bytes) -> None:
        request = self._request
        assert request is not None
        request.url += url
        self._check_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        assert request is not None
        request.headers[name.lower()] = value
        self._check_head(len(name) + len(value))
        if len(request.headers) > self._limits.headers:
            self._refuse(431, f"headers: more than {self._limits.headers}")
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        self._size = 0
        if self._parser.should_upgrade():
            self._refuse(400, "upgrade is not offered")
            raise ValueError("upgrade")
        path = request.url.partition(b"?")[0].decode("latin-1")
        request.path = unquote(path) if "%" in path else path
        request.method = self._parser.get_method().decode("latin-1")
        request.keep_alive = self._parser.should_keep_alive()
        if int(request.headers.get(b"content-length", b"0")) > self._limits.body_bytes:
            self._refuse(413, f"body: larger than {self._limits.body_bytes} bytes")
            raise ValueError("body too large")
        if b"expect" in request.headers and self._transport is not None:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._limits.body_bytes:
            self._refuse(413, f"body: larger than {self._limits.body_bytes} bytes")
            raise ValueError("body too large")
        if self._size > _SMALL_BYTES and self._crowd_holds_too_much():
            self._refuse(503, "body: too much is being sent at once", (b"retry-after", b"1"))
            raise ValueError("bodies too large together")
        self._parts.append(body)

    def on_message_complete(self) -> None:
        request = self._request
        assert request is not None
        if parts := self._parts:
            request.body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._parts = []
        self._request = None
        self._completed += 1
        self._last = request
        if self._current is None:
            self._answer(request)
        else:
            self._queue.append(request)

    def _crowd_holds_too_much(self) -> bool:
        return sum(peer.held_bytes for peer in self._peers) > self._limits.bodies_bytes

    def _check_head(self, more: int) -> None:
        self._size += more
        if self._size > self._limits.header_bytes:
            self._refuse(431, f"headers: more than {self._limits.header_bytes} bytes")
            raise ValueError("headers too large")

    @property
    def held_bytes(self) -> int:
        """Of the request that arrives or is being answered."""
        return self._size

    # answering

    def _answer(self, request: Request) -> None:
        self._current = request
        self._answering = True
        self._give_up = self._responder.respond(request, self._done)
        self._answering = False
        self._wait_for_answer()

    def _done(self, reply: Reply) -> None:
        request, self._current, self._give_up = self._current, None, None
        transport = self._transport
        if transport is None or request is None:
            return
        keep = request.keep_alive and not (self._closing and not self._queue)
        self._write(transport, reply, keep, request.method == "HEAD")
        if not keep:
            transport.close()
            return
        self.expires = self._clock() + self._limits.keep_alive_s
        if self._request is None:
            self._size = 0
        if self._answering:
            self._awake.answered()
            return
        self._go_on()

    def _wait_for_answer(self) -> None:
        """Read nothing more while an answer is under way."""
        if self._current is not None and self._transport is not None:
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Answer what has come meanwhile; then read again."""
        while self._queue:
            self._answer(self._queue.popleft())
            if self._current is not None:
                return
        if self._transport is not None and not self._crowded:
            self._transport.resume_reading()

    def _write(
        self, transport: asyncio.Transport, reply: Reply, keep: bool, head_only: bool
    ) -> None:
        status, body, content_type, headers = reply
        head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (
            status,
            _REASONS[status],
            content_type,
            len(body),
        )
        for name, value in headers:
            head += b"%b: %b\r\n" % (name, value)
        head += b"\r\n" if keep else b"connection: close\r\n\r\n"
        if head_only:
            transport.write(head)
        elif len(body) > _PAUSE_BYTES:
            transport.write(head)
            transport.write(body)
        else:
            transport.write(head + body)

    def _refuse(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        """Answer what cannot be taken as a request, and close.

        Where requests before it are still being answered, those answers are the last. What the
        client still sends is read and dropped for a while: closing on unread data would reset the
        connection, and the client might never see the answer.
        """
        self._closing = True
        self._refused(status)
        transport = self._transport
        if transport is None or self._current is not None:
            return
        self._write(transport, error_reply(status, text, *headers), False, False)
        if transport.can_write_eof():
            transport.write_eof()
            self.expires = self._clock() + _LINGER_S
        else:
            transport.close()

    # the server's side

    def sweep(self, now: float) -> None:
        """Close if the client has been silent for too long."""
        if self._current is not None or now < self.expires or self._transport is None:
            return
        if self._request is not None and not self._closing:
            self._refuse(408, "the request did not arrive in time")
        else:
            self._transport.close()

    def finish(self) -> None:
        """Close after the answer under way, or now where there is none."""
        self._closing = True
        if self._current is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()
