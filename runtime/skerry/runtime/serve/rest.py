"""The routes of the Open Inference Protocol v2 over HTTP."""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from skerry.devices.errors import SignatureMismatch, SkerryError
from skerry.runtime.models import Models
from skerry.runtime.serve.calls import Outcome, retry_seconds, status_of
from skerry.runtime.serve.describe import (
    ModelReady,
    find_model,
    load,
    model_metadata,
    model_states,
    readiness,
    server_metadata,
    unload,
)
from skerry.runtime.serve.dispatch import Dispatcher
from skerry.runtime.serve.http1 import Done, Reply, Request, error_reply
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.metrics import Metrics
from skerry.runtime.serve.openapi import document
from skerry.runtime.serve.rest_infer import RestCall, read_call, write_answer

__all__ = ["Rest"]

_log = logging.getLogger(__name__)
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_LIVE = "/v2/health/live"
_REPOSITORY = "/v2/repository/"
_encode = msgspec.json.Encoder().encode


class Rest:
    """`Responder` of the protocol.

    Args:
        token: what a client must send as a bearer token; None where anybody may ask. Liveness is
            told to all.
        more_metrics: further Prometheus text for `/metrics`.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        models: Models,
        limits: ServeLimits,
        metrics: Metrics,
        token: str | None = None,
        more_metrics: Callable[[], str] | None = None,
    ) -> None:
        self._dispatcher, self._models = dispatcher, models
        self._limits, self._metrics = limits, metrics
        self._more_metrics = more_metrics
        self._secret = None if token is None else f"Bearer {token}".encode()
        self._fixed: Mapping[str, Callable[[], Reply]] = {
            "/v2": lambda: Reply(200, _encode(server_metadata())),
            _LIVE: lambda: Reply(200, b'{"live":true}'),
            "/v2/health/ready": self._ready,
            "/metrics": self._exposition,
            "/openapi.json": self._document,
        }

    def respond(self, request: Request, done: Done) -> Callable[[], None] | None:
        """Answer `request`: at once, or when a thread has."""
        try:
            path = request.path
            if self._secret is not None and path != _LIVE and not self._allowed(request):
                reply = error_reply(
                    401, "authorization: a bearer token is needed", (b"www-authenticate", b"Bearer")
                )
            elif path.endswith("/infer"):
                found = self._infer(request)
                if isinstance(found, RestCall):
                    return self._dispatcher.infer(found.call, partial(self._write, found, done))
                reply = found
            elif path.startswith(_REPOSITORY):
                reply_or_work = self._repository(request, path.split("/")[3:])
                if not isinstance(reply_or_work, Reply):
                    self._dispatcher.run(reply_or_work, partial(self._made, done))
                    return None
                reply = reply_or_work
            else:
                reply = self._get(request, path.rstrip("/"))
        except SkerryError as error:
            reply = _failure(error)
        except Exception:  # noqa: BLE001 - logged, and told as 500
            reply = _bug()
        self._tell(done, reply)
        return None

    def _write(self, call: RestCall, done: Done, outcome: Outcome) -> None:
        """Reply with what an inference ended with."""
        if isinstance(outcome, SkerryError):
            reply = _failure(outcome)
        else:
            try:
                reply = write_answer(call, outcome)
            except SkerryError as error:
                reply = _failure(error)
            except Exception:  # noqa: BLE001 - logged, and told as 500
                reply = _bug()
        self._tell(done, reply)

    def _made(self, done: Done, found: Reply | SkerryError) -> None:
        self._tell(done, _failure(found) if isinstance(found, SkerryError) else found)

    def _tell(self, done: Done, reply: Reply) -> None:
        done(reply)
        self._metrics.answered("http", str(reply.status))

    def _get(self, request: Request, path: str) -> Reply:
        if (answer := self._fixed.get(path)) is not None:
            return _refuse_method(request, "GET") or answer()
        words = path.split("/")
        if words[:3] != ["", "v2", "models"] or len(words) < 4:
            return _nothing(request)
        rest, wanted = words[4:], None
        if len(rest) >= 2 and rest[0] == "versions":
            wanted, rest = rest[1], rest[2:]
        if rest not in ([], ["ready"]):
            return _nothing(request)
        info = find_model(self._models, words[3], wanted)
        if refusal := _refuse_method(request, "GET"):
            return refusal
        if rest:
            return Reply(200, _encode(ModelReady(info.model, True)))
        return Reply(200, _encode(model_metadata(self._models, info, self._limits)))

    def _infer(self, request: Request) -> RestCall | Reply:
        words = request.path.split("/")
        wanted = None
        if len(words) == 7 and words[4] == "versions":
            wanted = words[5]
        elif len(words) != 5:
            return _nothing(request)
        if words[1] != "v2" or words[2] != "models":
            return _nothing(request)
        name = words[3]
        self._models.info(name, wanted)
        refusal = _refuse_method(request, "POST")
        return refusal or read_call(request, name, wanted, self._limits)

    def _repository(self, request: Request, words: list[str]) -> Reply | Callable[[], Reply]:
        """Triton's model repository extension, as far as there is something to control."""
        if words == ["index"]:
            return _refuse_method(request, "POST") or self._index(request)
        if len(words) != 3 or words[0] != "models" or words[2] not in {"load", "unload"}:
            return _nothing(request)
        if refusal := _refuse_method(request, "POST"):
            return refusal
        change, name = load if words[2] == "load" else unload, words[1]

        def make() -> Reply:
            change(self._models, name)
            return Reply(200, b"{}")

        return make

    def _index(self, request: Request) -> Reply:
        wanted = _read_index(request.body)
        return Reply(200, _encode(model_states(self._models, ready_only=wanted.ready)))

    def _allowed(self, request: Request) -> bool:
        given = request.headers.get(b"authorization", b"")
        return self._secret is not None and hmac.compare_digest(given, self._secret)

    def _ready(self) -> Reply:
        found = readiness(self._models)
        return Reply(200 if found.ready else 503, _encode(found))

    def _document(self) -> Reply:
        found = document(self._models.infos(), token=self._secret is not None)
        return Reply(200, _encode(found))

    def _exposition(self) -> Reply:
        text = self._metrics.text(self._models.infos())
        if self._more_metrics is not None:
            text += self._more_metrics()
        return Reply(200, text.encode(), _TEXT)


class _Index(msgspec.Struct, frozen=True):
    """What a client wants of the index: with `ready` those in memory alone."""

    ready: bool = False


_decode_index = msgspec.json.Decoder(_Index).decode


def _read_index(body: bytes) -> _Index:
    if not body:
        return _Index()
    try:
        return _decode_index(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureMismatch(f"not a request for the index: {error}", where="body") from error


def _failure(error: SkerryError) -> Reply:
    """The reply that tells a client of an error: whose fault it is, and where."""
    seconds = retry_seconds(error)
    after = () if seconds is None else ((b"retry-after", b"%d" % math.ceil(seconds)),)
    return error_reply(status_of(error).http, str(error), *after)


def _bug() -> Reply:
    """Log the exception at hand. Returns what a client is told of it."""
    _log.exception("a request ended in a bug")
    return error_reply(500, "a bug in the server; its log says more")


def _nothing(request: Request) -> Reply:
    return error_reply(404, f"no such path {request.path[:200]!r}")


def _refuse_method(request: Request, allowed: str) -> Reply | None:
    if request.method == allowed or (request.method, allowed) == ("HEAD", "GET"):
        return None
    return error_reply(405, f"use {allowed}", (b"allow", allowed.encode()))
