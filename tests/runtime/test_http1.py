"""The connection alone, on a transport in memory: what bytes come give what bytes go."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.runtime.serve.busypoll import BusyPoll
from skerry.runtime.serve.http1 import Connection, Reply, Request
from skerry.runtime.serve.limits import ServeLimits

LIMITS = ServeLimits(body_bytes=1000, header_bytes=500, headers=10, connections=2)
ASLEEP = BusyPoll(lambda _: None, 0.0, bool)
GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def write_eof(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Responder:
    """Answers with what it was asked; later where `wait` is set."""

    def __init__(self) -> None:
        self.wait = False
        self.waiting: list[Any] = []
        self.seen: list[Request] = []

    def respond(self, request: Request, done: Any) -> None:
        self.seen.append(request)
        reply = Reply(200, request.path.encode())
        if self.wait:
            self.waiting.append(lambda: done(reply))
        else:
            done(reply)


class Peer:
    """A connection with its surroundings."""

    def __init__(self, limits: ServeLimits = LIMITS) -> None:
        self.responder, self.peers, self.refused = Responder(), set[Connection](), list[int]()
        self.limits = limits
        self.connection, self.transport = self.connect()

    def connect(self) -> tuple[Connection, Transport]:
        refused = self.refused.append
        connection = Connection(self.responder, self.limits, self.peers, refused, ASLEEP)
        transport = Transport()
        connection.connection_made(transport)
        return connection, transport

    def send(self, data: bytes) -> bytes:
        self.connection.data_received(data)
        return self.transport.sent


@pytest.fixture
def peer() -> Iterator[Peer]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    async def make() -> Peer:
        return Peer()

    yield loop.run_until_complete(make())
    loop.close()
    asyncio.set_event_loop(None)


def test_a_request_is_answered(peer: Peer) -> None:
    sent = peer.send(GET)
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 2" in head
    assert body == b"/a"
    assert not peer.transport.closed


def test_a_request_in_single_bytes_is_the_same(peer: Peer) -> None:
    message = b"POST /b%20c?q=1 HTTP/1.1\r\nhost: x\r\nContent-Length: 3\r\n\r\nxyz"
    for byte in message:
        peer.send(bytes([byte]))
    (request,) = peer.responder.seen
    assert (request.method, request.path, request.body) == ("POST", "/b c", b"xyz")
    assert request.headers[b"content-length"] == b"3"


def test_a_chunked_body_is_joined(peer: Peer) -> None:
    peer.send(
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert peer.responder.seen[0].body == b"abcde"


def test_pipelined_requests_are_answered_in_order(peer: Peer) -> None:
    sent = peer.send(GET + GET.replace(b"/a", b"/b") + GET.replace(b"/a", b"/c"))
    assert [part[:2] for part in sent.split(b"\r\n\r\n")[1:]] == [b"/a", b"/b", b"/c"]


def test_while_an_answer_is_awaited_nothing_more_is_read(peer: Peer) -> None:
    peer.responder.wait = True
    peer.send(GET + GET.replace(b"/a", b"/b"))
    assert not peer.transport.reading
    assert len(peer.responder.seen) == 1
    peer.responder.waiting.pop()()
    assert len(peer.responder.seen) == 2
    assert not peer.transport.reading
    peer.responder.waiting.pop()()
    assert peer.transport.reading
    assert peer.transport.sent.count(b"200 OK") == 2


def test_what_follows_a_waiting_request_and_is_none_ends_the_connection_after_it(
    peer: Peer,
) -> None:
    peer.responder.wait = True
    assert peer.send(GET + GET + b"\x00\x01 noise\r\n\r\n") == b""
    peer.responder.waiting.pop()()
    assert not peer.transport.closed
    peer.responder.waiting.pop()()
    assert peer.transport.sent.count(b"200 OK") == 2
    assert peer.transport.sent.count(b"HTTP/1.1 ") == 2
    assert peer.transport.sent.count(b"connection: close") == 1
    assert peer.transport.closed


def test_an_answer_for_a_client_that_left_is_dropped(peer: Peer) -> None:
    peer.responder.wait = True
    peer.send(GET)
    peer.connection.connection_lost(None)
    peer.responder.waiting.pop()()
    assert peer.transport.sent == b""
    assert peer.peers == set()


def test_head_has_no_body_and_close_is_kept(peer: Peer) -> None:
    sent = peer.send(b"HEAD /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert sent.endswith(b"connection: close\r\n\r\n")
    assert b"content-length: 2" in sent
    assert peer.transport.closed


def test_http_1_0_closes(peer: Peer) -> None:
    peer.send(b"GET /a HTTP/1.0\r\n\r\n")
    assert peer.transport.closed


def test_a_client_that_asks_first_is_told_to_go_on(peer: Peer) -> None:
    head = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"
    assert peer.send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    peer.send(b"x")
    assert peer.responder.seen[0].body == b"x"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 10000000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 500 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 500 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: 1\r\n" % n for n in range(11)) + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_once_and_the_connection_ends(
    peer: Peer, data: bytes, status: int
) -> None:
    sent = peer.send(data)
    assert sent.startswith(b"HTTP/1.1 %d " % status)
    assert sent.count(b"HTTP/1.1 ") == 1
    assert peer.transport.closed
    assert peer.refused == [status]
    assert peer.responder.seen == []
    assert peer.send(GET) == sent


def test_more_connections_than_allowed_are_turned_away(peer: Peer) -> None:
    async def connect() -> Transport:
        return peer.connect()[1]

    loop = asyncio.get_event_loop_policy().get_event_loop()
    assert not loop.run_until_complete(connect()).closed
    third = loop.run_until_complete(connect())
    assert third.sent.startswith(b"HTTP/1.1 503")
    assert third.closed


async def _bodies(held: int, limit: int) -> tuple[bytes, bytes]:
    """What two clients get that each send a large body, the first of which is not answered yet."""
    responder, peers = Responder(), set[Connection]()
    limits = ServeLimits(body_bytes=4 << 20, bodies_bytes=limit)
    sent = []
    for wait in (True, False):
        responder.wait = wait
        transport = Transport()
        connection = Connection(responder, limits, peers, lambda _: None, ASLEEP)
        connection.connection_made(transport)
        head = b"POST /a HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % held
        for part in (head, b"x" * (held // 2), b"x" * (held - held // 2)):
            connection.data_received(part)
        sent.append(transport)
    return sent[0].sent, sent[1].sent


def _post(body: bytes, more: bytes = b"") -> bytes:
    return b"POST /a HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (more, len(body), body)


PIECES = [
    GET,
    _post(b"one"),
    _post(b"two"),
    _post(b"\r\n"),
    _post(b""),
    _post(b"ab\r\n\r\ncd"),
    _post(b"one", b"expect: 100-continue\r\n"),
    _post(b"one", b"connection: close\r\n"),
    b"POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
    b"\r\n",
    b"POST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\n",
    b"one",
    b"nonsense",
]


class Echo(Responder):
    """Answers with what it understood."""

    def respond(self, request: Request, done: Any) -> None:
        done(
            Reply(200, repr((request.method, request.url, request.headers, request.body)).encode())
        )


async def _sent(parts: list[bytes], forget: bool) -> bytes:
    transport = Transport()
    connection = Connection(Echo(), LIMITS, set(), lambda _: None, ASLEEP)
    connection.connection_made(transport)
    for part in parts:
        if not transport.closed:
            connection.data_received(part)
        if forget:
            connection._known = None
    return transport.sent


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.lists(st.integers(0, 200), max_size=3))
def test_a_head_that_comes_again_means_the_same(pieces: list[bytes], cuts: list[int]) -> None:
    """With what was remembered of earlier heads, and with none of it."""
    whole = b"".join(pieces)
    bounds = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    cut = [whole[start:end] for start, end in pairwise(bounds)]
    for parts in (pieces, cut):
        assert asyncio.run(_sent(parts, False)) == asyncio.run(_sent(parts, True))


def test_a_head_is_remembered_once_it_came_in_one_piece(peer: Peer) -> None:
    for body in (b"one", b"two"):
        peer.connection.data_received(_post(body))
    assert peer.connection._known is not None
    assert [request.body for request in peer.responder.seen] == [b"one", b"two"]


def test_what_all_clients_send_together_is_bounded() -> None:
    first, second = asyncio.run(_bodies(2 << 20, 3 << 20))
    assert first == b""
    assert second.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in second
    assert asyncio.run(_bodies(2 << 20, 5 << 20))[1].startswith(b"HTTP/1.1 200")


def test_a_client_that_dribbles_its_request_is_cut_off(peer: Peer) -> None:
    peer.send(b"POST /a HTTP/1.1\r\ncontent-length: 10\r\n\r\nx")
    expires = peer.connection.expires
    peer.send(b"y")
    assert peer.connection.expires == expires
    peer.connection.sweep(expires - 1)
    assert not peer.transport.closed
    peer.connection.sweep(expires + 1)
    assert peer.transport.sent.startswith(b"HTTP/1.1 408")
    assert peer.transport.closed


def test_an_idle_connection_is_closed_but_not_a_waiting_one(peer: Peer) -> None:
    peer.responder.wait = True
    peer.send(GET)
    peer.connection.sweep(float("inf"))
    assert not peer.transport.closed
    peer.responder.waiting.pop()()
    peer.connection.sweep(peer.connection.expires + 1)
    assert peer.transport.closed


def test_a_client_that_does_not_read_is_not_read_from(peer: Peer) -> None:
    peer.connection.pause_writing()
    assert not peer.transport.reading
    peer.responder.wait = True
    peer.connection.data_received(GET)
    peer.responder.waiting.pop()()
    assert not peer.transport.reading
    peer.connection.resume_writing()
    assert peer.transport.reading


def test_at_the_end_the_answer_under_way_is_still_given(peer: Peer) -> None:
    peer.responder.wait = True
    peer.send(GET)
    peer.connection.finish()
    assert not peer.transport.closed
    peer.responder.waiting.pop()()
    assert b"connection: close" in peer.transport.sent
    assert peer.transport.closed


@given(st.lists(st.binary(max_size=60) | st.just(GET), max_size=6))
def test_any_bytes_give_answers_and_never_an_exception(parts: list[bytes]) -> None:
    async def feed() -> None:
        peer = Peer()
        for part in parts:
            peer.send(part)
        assert peer.transport.sent.count(b"HTTP/1.1 ") >= len(peer.responder.seen)

    asyncio.run(feed())
