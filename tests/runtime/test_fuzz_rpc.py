"""Mutated gRPC messages through reading, dispatch and writing: answered or refused by name.

PYTHONPATH=tests python tests/runtime/test_fuzz_rpc.py 1000000
"""

import asyncio
import random
import resource
import sys
import tempfile
import time
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from fakes.bundles import WORDS, make_bundle, make_text_bundle
from skerry.devices.errors import SkerryError
from skerry.runtime.models import OneModel
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.calls import Outcome, status_of
from skerry.runtime.serve.dispatch import Dispatcher
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.metrics import Metrics
from skerry.runtime.serve.rpc import open_inference_pb2 as pb
from skerry.runtime.serve.rpc.messages import RpcCall, read_call, write_answer
from skerry.runtime.serve.rpc.wire import check_fields, unpacked

LIMITS = ServeLimits(body_bytes=1 << 16, text_bytes=1 << 20, inline_s=1e9)
X = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
PIECES = [b"\x00", b"\xff", b"\x80" * 9, b"\x2a\x00", b"\x3a\x00", b"\x22\x00", b"\x78", b"BYTES"]


def _seeds() -> list[bytes]:
    tensor = {"name": "x", "datatype": "FP32", "shape": X.shape}
    typed = pb.ModelInferRequest(model_name="linear", inputs=[tensor], id="1")
    typed.inputs[0].contents.fp32_contents.extend(X.ravel())
    typed.parameters["timeout"].int64_param = 10_000_000
    raw = pb.ModelInferRequest(model_name="linear", inputs=[tensor])
    raw.raw_input_contents.append(X.tobytes())
    raw.outputs.add(name="y")
    words = {"name": "words", "datatype": "BYTES", "shape": WORDS.shape}
    text = pb.ModelInferRequest(model_name="text", inputs=[words])
    parts = [word.encode() for word in WORDS.ravel()]
    text.raw_input_contents.append(b"".join(len(p).to_bytes(4, "little") + p for p in parts))
    named = pb.ModelInferRequest(model_name="text", inputs=[words])
    named.inputs[0].contents.bytes_contents.extend(parts)
    plain = [one.SerializeToString() for one in (typed, raw, text, named)]
    return [*plain, zlib.compress(plain[0])]


def _mutated(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at:at] = rng.choice(PIECES)
            case 2:
                del out[at : at + rng.randrange(1, 20)]
            case _:
                out[at:at] = out[at : at + rng.randrange(1, 40)]
    return bytes(out)


def _count(statuses: Counter[str], asked: RpcCall, outcome: Outcome) -> None:
    if isinstance(outcome, SkerryError):
        statuses[status_of(outcome).grpc] += 1
    else:
        pb.ModelInferResponse.FromString(write_answer(asked, outcome))
        statuses["OK"] += 1


async def _drive(runtimes: list[Runtime], count: int, seed: int) -> Counter[str]:
    rng, seeds, statuses = random.Random(seed), _seeds(), Counter[str]()
    dispatchers = [Dispatcher(OneModel(one), LIMITS, Metrics()) for one in runtimes]
    for _ in range(count):
        which = rng.randrange(len(seeds))
        try:
            data = unpacked(_mutated(rng, seeds[which]), LIMITS.body_bytes)
            check_fields(data, LIMITS.fields)
            asked = read_call(data, LIMITS)
        except SkerryError as error:
            statuses[status_of(error).grpc] += 1
        else:
            dispatcher = dispatchers[which in (2, 3)]
            dispatcher.infer(asked.call, partial(_count, statuses, asked))
    for dispatcher in dispatchers:
        dispatcher.close()
    return statuses


def fuzz(folder: Path, count: int, seed: int) -> Counter[str]:
    """Answers by status for `count` mutated messages."""
    runtimes = [
        Runtime.open(make_bundle(folder / "linear")),
        Runtime.open(make_text_bundle(folder / "text")),
    ]
    return asyncio.run(_drive(runtimes, count, seed))


def test_mutated_messages_are_answered_or_refused(tmp_path: Path) -> None:
    statuses = fuzz(tmp_path, 10_000, 0)
    assert set(statuses) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
    assert min(statuses["OK"], statuses["INVALID_ARGUMENT"]) > 1000


if __name__ == "__main__":
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seed = int(time.time())
        print(f"seed {seed}", dict(fuzz(Path(folder), int(sys.argv[1]), seed)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.monotonic() - began:.0f} s, {peak:.0f} MiB at most")
