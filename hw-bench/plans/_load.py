"""A small HTTP load generator: keep-alive connections, one request in flight on each.

Answers are received into one buffer that is kept: `recv` would take its 256 KiB from the system
anew for each, which costs as long as a quick server takes to answer. A generator that has a CPU of
its own may poll for answers instead of sleeping until one is there: on a virtual machine it is the
waking of its own halted CPU that takes the longest of all, and that is not the server's doing.
"""

import selectors
import socket
import time
from contextlib import suppress

_HEAD_END, _LENGTH, _LINE_END = b"\r\n\r\n", b"\r\ncontent-length:", b"\r\n"
_BYTES = 1 << 18


def connect(address):
    """A connection to `http://host:port` or `unix:/path`."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address.removeprefix("unix:"))
        return sock
    host, port = address.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(body, headers=b"", path=b"/v2/models/linear/infer"):
    """The bytes of a POST."""
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % path
    return head + headers + b"content-length: %d\r\n\r\n" % len(body) + body


def drive(address, message, connections, seconds, awake=False):
    """Send `message` over and over. Returns seconds of every answer, and how long it all took.

    Args:
        awake: poll for answers; needs a CPU that nobody else is to have.

    Raises:
        RuntimeError: an answer was not 200.
    """
    if connections == 1:
        return _drive_one(address, message, seconds, awake)
    selector = selectors.DefaultSelector()
    peers = {}
    for _ in range(connections):
        sock = connect(address)
        peers[sock] = [0.0, b"", -1]
        selector.register(sock, selectors.EVENT_READ)
    took = []
    buffer = memoryview(bytearray(_BYTES))
    patience = 0.0 if awake else 1.0
    began = time.perf_counter()
    for sock, state in peers.items():
        state[0] = time.perf_counter()
        sock.sendall(message)
    while (now := time.perf_counter()) - began < seconds:
        for key, _ in selector.select(patience):
            sock = key.fileobj
            state = peers[sock]
            state[1] += _some(sock, buffer)
            data = state[1]
            if state[2] < 0:
                state[2] = _whole(data)
            if 0 <= state[2] <= len(data):
                now = time.perf_counter()
                took.append(now - state[0])
                state[:] = [now, b"", -1]
                sock.sendall(message)
    total = time.perf_counter() - began
    for sock in peers:
        sock.close()
    return took, total


def _drive_one(address, message, seconds, awake):
    """One connection: a client that sends, waits until the answer is there, and looks at it."""
    took = []
    buffer = memoryview(bytearray(_BYTES))
    receive = _poll if awake else _some
    with connect(address) as sock:
        sock.setblocking(not awake)
        began = now = time.perf_counter()
        while (sent := now) - began < seconds:
            sock.sendall(message)
            data = receive(sock, buffer)
            while (size := _whole(data)) < 0 or len(data) < size:
                data += receive(sock, buffer)
            now = time.perf_counter()
            took.append(now - sent)
    return took, now - began


def _some(sock, buffer):
    """What has come, at least a byte."""
    if count := sock.recv_into(buffer):
        return bytes(buffer[:count])
    raise RuntimeError("cut off before the end of the answer")


def _poll(sock, buffer):
    """As `_some`, of a socket that does not block."""
    while True:
        with suppress(BlockingIOError):
            return _some(sock, buffer)


def _whole(data):
    """The length of the answer that begins `data`, head and body; -1 while its head is not whole.

    Raises:
        RuntimeError: it is not 200.
    """
    head = data.find(_HEAD_END)
    if head < 0:
        return -1
    if not data.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(data[:300])
    at = data.find(_LENGTH, 0, head)
    if at < 0:  # written otherwise
        at = data[:head].lower().index(_LENGTH)
    at += len(_LENGTH)
    end = data.find(_LINE_END, at)
    return head + len(_HEAD_END) + int(data[at:end])
