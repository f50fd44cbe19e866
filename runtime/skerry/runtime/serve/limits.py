"""What clients may take of the server."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ServeLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeLimits:
    """Bounds of one server.

    Attributes:
        body_bytes: the largest request body, also when it is unpacked.
        bodies_bytes: of request bodies over all HTTP connections together; what goes beyond is
            answered 503.
        calls: the most gRPC calls at once, of each of which the library may hold `body_bytes` while
            its message arrives.
        messages_bytes: of gRPC messages, unpacked, from when they have arrived until they are
            answered, over all calls together; what goes beyond is answered RESOURCE_EXHAUSTED.
        text_bytes: the most memory of one tensor of strings, whose longest sets the width of all.
        header_bytes, headers: the most bytes of path and headers together, and the most headers.
        fields: the most parts of a gRPC message: tensors, parameters and the like.
        connections: the most open connections; further ones are closed at once.
        streams: the most calls at once on one gRPC connection.
        keep_alive_s: how long an idle connection is kept.
        request_s: how long a client may take to send one request.
        drain_s: how long `stop` waits for requests under way.
        awake_s: for how long after an answer the server polls for the next request before it
            sleeps, where the one before came as soon; 0 to sleep at once (`serve.busypoll`).
        inline_s: a call that is taken to need longer than this is run off the event loop.
        threads: the most inferences at once off the event loop; 0 for one per core.
        waiting: the most inferences waiting for one of those threads; the next is answered 503.
        batch_rows: the longest batch that waiting inferences are joined to; 1 to join none.
        batch_gain: they are joined where a batch is at least so many times faster than its rows,
            and the model answers each row by itself.
        deadline_s: when an inference off the event loop is answered 504 at the latest. A request
            may ask for less by its parameter `timeout`, in microseconds.
        rate: inferences per second over all clients, answered 429 beyond; 0 for no limit.
        burst: how many may come at once under `rate`.
    """

    body_bytes: int = 64 << 20
    bodies_bytes: int = 256 << 20
    calls: int = 128
    messages_bytes: int = 256 << 20
    text_bytes: int = 64 << 20
    header_bytes: int = 16 << 10
    headers: int = 64
    fields: int = 4096
    connections: int = 512
    streams: int = 128
    keep_alive_s: float = 60.0
    request_s: float = 30.0
    drain_s: float = 10.0
    awake_s: float = 0.00015
    inline_s: float = 0.0002
    threads: int = 0
    waiting: int = 256
    batch_rows: int = 32
    batch_gain: float = 1.25
    deadline_s: float = 30.0
    rate: float = 0.0
    burst: int = 32
