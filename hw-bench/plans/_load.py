"""A small HTTP load generator: keep-alive connections, one request in flight on each."""

import re
import selectors
import socket
import time

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


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


def drive(address, message, connections, seconds):
    """Send `message` over and over. Returns seconds of every answer, and how long it all took.

    Raises:
        RuntimeError: an answer was not 200.
    """
    selector = selectors.DefaultSelector()
    peers = {}
    for _ in range(connections):
        sock = connect(address)
        peers[sock] = [0.0, b"", -1]
        selector.register(sock, selectors.EVENT_READ)
    took = []
    began = time.perf_counter()
    for sock, state in peers.items():
        state[0] = time.perf_counter()
        sock.sendall(message)
    while (now := time.perf_counter()) - began < seconds:
        for key, _ in selector.select(1.0):
            sock = key.fileobj
            state = peers[sock]
            state[1] += sock.recv(1 << 18)
            data = state[1]
            if state[2] < 0:
                head = data.find(b"\r\n\r\n")
                if head < 0:
                    continue
                if not data.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(data[:300])
                state[2] = head + 4 + int(_LENGTH.search(data, 0, head).group(1))
            if len(data) >= state[2]:
                now = time.perf_counter()
                took.append(now - state[0])
                state[:] = [now, b"", -1]
                sock.sendall(message)
    total = time.perf_counter() - began
    for sock in peers:
        sock.close()
    return took, total
