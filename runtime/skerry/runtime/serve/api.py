"""The routes of the Open Inference Protocol v2, and what an error is called over HTTP."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from skerry.devices.errors import (
    CancelledError,
    InputError,
    SignatureMismatch,
    SkerryError,
    UnavailableError,
)
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.models import Models, Shelf
from skerry.runtime.prepared import Info
from skerry.runtime.serve.http1 import Reply, Request, error_reply
from skerry.runtime.serve.infer import Call, read_call
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.metrics import Metrics
from skerry.runtime.serve.tensors import DATATYPES

__all__ = ["Api", "Later", "failure"]

_RETRY = (b"retry-after", b"1")
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_LIVE = "/v2/health/live"
_encode = msgspec.json.Encoder().encode


class Later(NamedTuple):
    """A reply that takes time to make."""

    make: Callable[[], Reply]


class Api:
    """Answers every request but inferences, and reads those.

    Args:
        token: what a client must send as a bearer token; None where anybody may ask. Liveness is
            told to all.
        more_metrics: further Prometheus text for `/metrics`.
    """

    def __init__(
        self,
        models: Models,
        limits: ServeLimits,
        metrics: Metrics,
        token: str | None = None,
        more_metrics: Callable[[], str] | None = None,
    ) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics
        self._more_metrics = more_metrics
        self._secret = None if token is None else f"Bearer {token}".encode()
        self._fixed: Mapping[str, Callable[[], Reply]] = {
            "/v2": self._server,
            _LIVE: lambda: Reply(200, b'{"live":true}'),
            "/v2/health/ready": self._ready,
            "/metrics": self._exposition,
        }

    def read(self, request: Request) -> Call | Later | Reply:
        """The inference that a request asks for, or the reply to a request of any other kind, or
        what will make it.

        Raises:
            SkerryError: the request is wrong; `failure` makes it a reply.
        """
        path = request.path
        if self._secret is not None and path != _LIVE and not self._allowed(request):
            return error_reply(
                401, "authorization: a bearer token is needed", (b"www-authenticate", b"Bearer")
            )
        if path.endswith("/infer"):
            return self._infer(request)
        if path.startswith("/v2/repository/"):
            return self._repository(request, path.split("/")[3:])
        return self._get(request, path.rstrip("/"))

    def _get(self, request: Request, path: str) -> Reply:
        if (answer := self._fixed.get(path)) is not None:
            return _refuse_method(request, "GET") or answer()
        words = path.split("/")
        if words[:3] != ["", "v2", "models"] or len(words) < 4:
            return error_reply(404, f"no such path {path[:200]!r}")
        info = self._models.info(words[3])
        rest = words[4:]
        if len(rest) >= 2 and rest[0] == "versions":
            if rest[1] != info.version:
                return error_reply(404, f"no version {rest[1][:80]!r} of {info.model!r} serves")
            rest = rest[2:]
        if rest == []:
            return _refuse_method(request, "GET") or Reply(200, _encode(_metadata(info)))
        if rest == ["ready"]:
            return _refuse_method(request, "GET") or self._ready()
        return error_reply(404, f"no such path {path[:200]!r}")

    def _infer(self, request: Request) -> Call | Reply:
        words = request.path.split("/")
        wanted = None
        if len(words) == 7 and words[4] == "versions":
            wanted = words[5]
        elif len(words) != 5 or words[2] != "models":
            return error_reply(404, f"no such path {request.path[:200]!r}")
        name = words[3]
        self._models.info(name)
        refusal = _refuse_method(request, "POST")
        return refusal or read_call(request, name, wanted, self._limits)

    def _repository(self, request: Request, words: list[str]) -> Later | Reply:
        """Triton's model repository extension, as far as there is something to control."""
        if refusal := _refuse_method(request, "POST"):
            return refusal
        if words == ["index"]:
            return Reply(200, _encode([self._state(info) for info in self._models.infos()]))
        if len(words) != 3 or words[0] != "models" or words[2] not in {"load", "unload"}:
            return error_reply(404, f"no such path {request.path[:200]!r}")
        self._models.info(words[1])
        shelf = self._models
        if not isinstance(shelf, Shelf):
            return error_reply(400, "this server has one model, and it is always loaded")
        change = shelf.load if words[2] == "load" else shelf.unload

        def make() -> Reply:
            change(words[1])
            return Reply(200, b"{}")

        return Later(make)

    def _state(self, info: Info) -> dict[str, str]:
        here = self._models.loaded(info.model) is not None
        state = {"state": "READY", "reason": ""} if here else {"state": "UNAVAILABLE"}
        return {"name": info.model, "version": info.version, "reason": "not in memory"} | state

    def _allowed(self, request: Request) -> bool:
        given = request.headers.get(b"authorization", b"")
        return self._secret is not None and hmac.compare_digest(given, self._secret)

    def _server(self) -> Reply:
        document = {
            "name": "skerry",
            "version": version("skerry"),
            "extensions": ["binary_tensor_data", "model_repository"],
        }
        return Reply(200, _encode(document))

    def _ready(self) -> Reply:
        ready = bool(self._models.infos())
        return Reply(200 if ready else 503, _encode({"ready": ready}))

    def _exposition(self) -> Reply:
        text = self._metrics.text(self._models.infos())
        if self._more_metrics is not None:
            text += self._more_metrics()
        return Reply(200, text.encode(), _TEXT)


def failure(error: SkerryError) -> Reply:
    """The reply that tells a client of an error: whose fault it is, and where."""
    if isinstance(error, SignatureMismatch):
        return error_reply(400, str(error))
    if isinstance(error, InputError):
        return error_reply(404, str(error))
    if isinstance(error, CancelledError):
        return error_reply(504, str(error))
    if isinstance(error, UnavailableError):
        return error_reply(503, str(error), _RETRY)
    return error_reply(500, str(error))


def _refuse_method(request: Request, allowed: str) -> Reply | None:
    if request.method == allowed or (request.method, allowed) == ("HEAD", "GET"):
        return None
    return error_reply(405, f"use {allowed}", (b"allow", allowed.encode()))


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
