"""Mutated requests through the whole server, without sockets: no bug, no 5xx, nothing that grows.

PYTHONPATH=tests python tests/runtime/test_fuzz_http.py 1000000
"""

import asyncio
import gzip
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fakes.bundles import make_bundle
from skerry.runtime.models import OneModel
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.busypoll import BusyPoll
from skerry.runtime.serve.dispatch import Dispatcher
from skerry.runtime.serve.http1 import Connection
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.metrics import Metrics
from skerry.runtime.serve.rest import Rest

LIMITS = ServeLimits(body_bytes=1 << 16, inline_s=1e9)
ASLEEP = BusyPoll(lambda _: None, 0.0, bool)
INFER = b"/v2/models/linear/infer"
WORDS = [
    *(b'FP32 FP64 INT8 BOOL BYTES null true NaN -1 1e999 [ ] { } , : "" 0 [[[['.split()),
    b"18446744073709551616",
    b'"x"',
    b'"binary_data_size":32',
    b"\xff\xfe",
    b"\x00",
    b"\r\n",
    b"\r\n\r\n",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"content-encoding: gzip\r\n",
    b"inference-header-content-length: 7\r\n",
    b"/v2/models/linear/versions/1/infer",
    b"/v2/repository/models/linear/unload",
]


def _post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST " + INFER + b" HTTP/1.1", b"host: x", *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


def _seeds() -> list[bytes]:
    rows = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32"}
    flat = json.dumps({"inputs": [tensor | {"data": rows.ravel().tolist()}], "id": "1"}).encode()
    nested = json.dumps({"inputs": [tensor | {"data": rows.tolist()}]}).encode()
    more = {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    parameters = {"parameters": {"binary_data_size": 32}}
    head = json.dumps({"inputs": [tensor | parameters], **more}).encode()
    length = b"inference-header-content-length: %d" % len(head)
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(flat), flat)
    return [
        _post(flat),
        _post(nested),
        _post(head + rows.tobytes(), length),
        _post(gzip.compress(flat), b"content-encoding: gzip"),
        b"POST " + INFER + b" HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + chunk,
        b"GET /v2/models/linear HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"POST /v2/repository/index HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
    ]


def _mutated(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at:at] = rng.choice(WORDS)
            case 2:
                del out[at : at + rng.randrange(1, 20)]
            case 3:
                out[at : at + rng.randrange(20)] = rng.choice(WORDS)
            case _:
                out[at:at] = out[at : at + rng.randrange(1, 40)]
    return bytes(out)


class _Sink(asyncio.Transport):
    """Remembers the status of every answer."""

    def __init__(self, statuses: Counter[int]) -> None:
        super().__init__()
        self._statuses = statuses
        self.closed = False

    def write(self, data: Any) -> None:
        if data[:5] == b"HTTP/":
            self._statuses[int(data[9:12])] += 1

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _drive(runtime: Runtime, count: int, seed: int) -> Counter[int]:
    rng, seeds, statuses = random.Random(seed), _seeds(), Counter[int]()
    metrics = Metrics()
    models = OneModel(runtime)
    dispatcher = Dispatcher(models, LIMITS, metrics)
    rest = Rest(dispatcher, models, LIMITS, metrics)
    for _ in range(count):
        connection = Connection(rest, LIMITS, set(), lambda _: None, ASLEEP)
        sink = _Sink(statuses)
        connection.connection_made(sink)
        data = _mutated(rng, rng.choice(seeds))
        cut = rng.randrange(len(data) + 1)
        for part in (data[:cut], data[cut:]):
            if not sink.closed:
                connection.data_received(part)
        connection.connection_lost(None)
    dispatcher.close()
    return statuses


def fuzz(folder: Path, count: int, seed: int) -> Counter[int]:
    """Answers by status for `count` mutated requests."""
    return asyncio.run(_drive(Runtime.open(make_bundle(folder / "b")), count, seed))


def test_mutated_requests_are_answered_or_refused(tmp_path: Path) -> None:
    statuses = fuzz(tmp_path, 10_000, 0)
    assert set(statuses) <= {100, 200, 400, 404, 405, 413, 431}
    assert min(statuses[200], statuses[400], statuses[404]) > 100


if __name__ == "__main__":
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        print(dict(fuzz(Path(folder), int(sys.argv[1]), int(time.time()))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.monotonic() - began:.0f} s, {peak:.0f} MiB at most")
