"""The protocol as a function: a request's method, path and body in, a reply out. No sockets here.

Open Inference Protocol v2, REST: health, metadata, inference; and `/metrics`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from skerry.devices.errors import (
    GateError,
    InputError,
    SignatureMismatch,
    SkerryError,
    UnavailableError,
)
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.prepared import Info
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.metrics import Metrics
from skerry.runtime.serve.tensors import (
    DATATYPES,
    InferResponse,
    decode_request,
    input_arrays,
    output_tensors,
)

__all__ = ["Api", "Reply", "ServeLimits"]

_JSON = "application/json"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeLimits:
    """What clients may take of the server.

    Attributes:
        body_bytes: the largest request body.
        connections: the most open connections; further ones are answered 503.
        keep_alive_s: how long an idle connection is kept.
        drain_s: how long `stop` waits for requests under way.
        inline_s: a model whose single row takes longer than this is run off the event loop.
    """

    body_bytes: int = 64 << 20
    connections: int = 512
    keep_alive_s: int = 30
    drain_s: int = 10
    inline_s: float = 0.002


class Reply(NamedTuple):
    """A response: status, body, content type, further headers."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Api:
    """Answers requests from a runtime.

    Args:
        more_metrics: further Prometheus text for `/metrics`.
    """

    def __init__(self, runtime: Runtime, more_metrics: Callable[[], str] | None = None) -> None:
        self._runtime = runtime
        self._more_metrics = more_metrics
        self.metrics = Metrics()
        self._fixed: Mapping[str, Callable[[], Reply]] = {
            "/v2": self._server,
            "/v2/health/live": lambda: Reply(200, b'{"live":true}'),
            "/v2/health/ready": self._ready,
            "/metrics": self._metrics,
        }

    def handle(self, method: str, path: str, body: bytes) -> Reply:
        """Answer one request. Never raises a `SkerryError`: it becomes a reply."""
        began = time.perf_counter()
        seconds = None
        try:
            if path.endswith("/infer"):
                reply = self._infer(method, path, body)
                seconds = time.perf_counter() - began
            else:
                reply = self._get(method, path.rstrip("/"))
        except SkerryError as error:
            reply = _failure(error)
        self.metrics.answered(reply.status, seconds)
        return reply

    def _get(self, method: str, path: str) -> Reply:
        if (answer := self._fixed.get(path)) is not None:
            return _method(method, "GET") or answer()
        words = path.split("/")
        if words[:3] != ["", "v2", "models"] or len(words) < 4:
            return _error(404, f"no such path {path[:200]!r}")
        info = self._find(words[3])
        rest = words[4:]
        if len(rest) >= 2 and rest[0] == "versions":
            if rest[1] != info.version:
                return _error(404, f"no version {rest[1][:80]!r} of {info.model!r} serves")
            rest = rest[2:]
        if rest == []:
            return _method(method, "GET") or Reply(200, _encode(_metadata(info)))
        if rest == ["ready"]:
            return _method(method, "GET") or self._ready()
        return _error(404, f"no such path {path[:200]!r}")

    def _infer(self, method: str, path: str, body: bytes) -> Reply:
        words = path.split("/")
        wanted = None
        if len(words) == 7 and words[4] == "versions":
            wanted = words[5]
        elif len(words) != 5:
            return _error(404, f"no such path {path[:200]!r}")
        self._find(words[3])
        if refusal := _method(method, "POST"):
            return refusal
        request = decode_request(body)
        inputs = input_arrays(request)
        outputs, release = self._runtime.answer(inputs, request.output_names(), version=wanted)
        response = InferResponse(
            release.card.model,
            release.card.version,
            output_tensors(outputs),
            {"artifact": release.artifact.name},
            request.id,
        )
        return Reply(200, _encode(response))

    def _find(self, model: str) -> Info:
        info = self._runtime.info()
        if info is None:
            raise UnavailableError("no model is active")
        if info.model != model:
            raise InputError(f"no model {model[:80]!r} here", remedy=f"there is {info.model!r}")
        return info

    def _server(self) -> Reply:
        extensions: list[str] = []
        document = {"name": "skerry", "version": version("skerry"), "extensions": extensions}
        return Reply(200, _encode(document))

    def _ready(self) -> Reply:
        ready = self._runtime.active is not None
        return Reply(200 if ready else 503, _encode({"ready": ready}))

    def _metrics(self) -> Reply:
        text = self.metrics.text(self._runtime.info())
        if self._more_metrics is not None:
            text += self._more_metrics()
        return Reply(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")


def _failure(error: SkerryError) -> Reply:
    """The reply that tells a client of an error: whose fault it is, and where."""
    if isinstance(error, SignatureMismatch):
        return _error(400, str(error))
    if isinstance(error, InputError):
        return _error(404, str(error))
    if isinstance(error, UnavailableError | GateError):
        return _error(503, str(error), ((b"retry-after", b"1"),))
    return _error(500, str(error))


def _error(status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    return Reply(status, _encode({"error": text}), _JSON, headers)


def _method(method: str, allowed: str) -> Reply | None:
    if method == allowed or (method, allowed) == ("HEAD", "GET"):
        return None
    return _error(405, f"use {allowed}", ((b"allow", allowed.encode()),))


def _metadata(info: Info) -> dict[str, Any]:
    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [
            {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": spec.shape}
            for spec in specs
        ]

    return {
        "name": info.model,
        "versions": [info.version],
        "platform": info.engine.replace(" ", "-"),
        "inputs": tensors(info.inputs),
        "outputs": tensors(info.outputs),
        "parameters": {
            "artifact": info.artifact,
            "manifest": info.manifest,
            "labels": list(info.labels),
        },
    }
