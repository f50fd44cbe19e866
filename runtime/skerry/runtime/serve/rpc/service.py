"""The methods of `inference.GRPCInferenceService`, on the dispatcher that REST uses too."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from skerry.devices.errors import (
    CancelledError,
    InputError,
    SignatureMismatch,
    SkerryError,
    ThrottledError,
    UnavailableError,
)
from skerry.runtime.models import Models
from skerry.runtime.serve.calls import Outcome, retry_seconds, status_of
from skerry.runtime.serve.describe import (
    find_model,
    is_ready,
    load,
    model_metadata,
    model_states,
    server_metadata,
    unload,
)
from skerry.runtime.serve.dispatch import Dispatcher
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.metrics import Metrics
from skerry.runtime.serve.rpc import open_inference_pb2 as pb
from skerry.runtime.serve.rpc.messages import read_call, write_answer
from skerry.runtime.serve.rpc.wire import check_fields, unpacked

__all__ = ["SERVICE", "Service"]

SERVICE = "inference.GRPCInferenceService"
_LIVE = "ServerLive"
_log = logging.getLogger(__name__)
_NOT_KNOWN = "authorization: a bearer token is needed"
_RETRY = "grpc-retry-pushback-ms"
_FULL_RETRY_S = 1.0
_Request = TypeVar("_Request", bound=Message)
_Made = TypeVar("_Made")
_Method = Callable[[bytes, float | None], Awaitable[bytes]]


class Service:
    """Answers every method.

    Args:
        token: what a client must send as a bearer token in the metadata `authorization`; None where
            anybody may ask. Liveness is told to all.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        models: Models,
        limits: ServeLimits,
        metrics: Metrics,
        token: str | None = None,
    ) -> None:
        self._dispatcher, self._models = dispatcher, models
        self._limits, self._metrics = limits, metrics
        self._secret = None if token is None else f"Bearer {token}".encode()
        self._held_bytes = 0
        self._methods: Mapping[str, _Method] = {
            _LIVE: self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._repository_load,
            "RepositoryModelUnload": self._repository_unload,
        }

    def handler(self) -> Any:
        """For a server. Each method reads its one message itself, so that it may stop waiting."""
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(partial(self._answer, name, method))
            for name, method in self._methods.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _answer(self, name: str, method: _Method, _: Any, context: Any) -> bytes:
        """One call, from the library's context to the bytes of the reply."""
        try:
            if self._secret is not None and name != _LIVE and not self._allowed(context):
                await self._end(context, "UNAUTHENTICATED", _NOT_KNOWN)
            message = await self._read(context)
            with self._held(len(message)):
                reply = await method(message, context.time_remaining())
        except aio.AbortError:
            raise
        except SkerryError as error:
            seconds = retry_seconds(error)
            await self._end(context, status_of(error).grpc, str(error), seconds)
        except Exception:  # noqa: BLE001 - logged, and told as INTERNAL
            _log.exception("a call ended in a bug")
            await self._end(context, "INTERNAL", "a bug in the server; its log says more")
        self._metrics.answered("grpc", "OK")
        return reply

    async def _read(self, context: Any) -> bytes:
        """The one message of a call, which must arrive in time and in bounds."""
        try:
            async with asyncio.timeout(self._limits.request_s):
                data = await context.read()
        except TimeoutError as error:
            raise CancelledError("the message did not arrive in time") from error
        if data is aio.EOF:  # none came, or one larger than the limit: the library has said so
            raise SignatureMismatch("there is none", where="message")
        message = unpacked(data, self._limits.body_bytes)
        check_fields(message, self._limits.fields)
        return message

    @contextmanager
    def _held(self, size: int) -> Iterator[None]:
        """Count a message of `size` bytes among those that are being answered."""
        if self._held_bytes + size > self._limits.messages_bytes:
            raise ThrottledError(
                "too much is being sent at once", where="message", retry_s=_FULL_RETRY_S
            )
        self._held_bytes += size
        try:
            yield
        finally:
            self._held_bytes -= size

    async def _end(
        self, context: Any, code: str, text: str, retry_s: float | None = None
    ) -> NoReturn:
        """End a call with an error; `retry_s` as gRFC A6 tells clients when to try again."""
        self._metrics.answered("grpc", code)
        after = () if retry_s is None else ((_RETRY, str(math.ceil(retry_s * 1e3))),)
        await context.abort(getattr(grpc.StatusCode, code), text, after)
        raise AssertionError("abort raises")

    def _allowed(self, context: Any) -> bool:
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        return self._secret is not None and hmac.compare_digest(str(given).encode(), self._secret)

    # the methods: from the bytes of a request and the seconds left, to the bytes of a reply

    async def _server_live(self, message: bytes, _: float | None) -> bytes:
        _parse(pb.ServerLiveRequest, message)
        return _encode(pb.ServerLiveResponse(live=True))

    async def _server_ready(self, message: bytes, _: float | None) -> bytes:
        _parse(pb.ServerReadyRequest, message)
        return _encode(pb.ServerReadyResponse(ready=is_ready(self._models)))

    async def _model_ready(self, message: bytes, _: float | None) -> bytes:
        request = _parse(pb.ModelReadyRequest, message)
        try:
            find_model(self._models, request.name, request.version or None)
        except (InputError, UnavailableError):
            return _encode(pb.ModelReadyResponse(ready=False))
        return _encode(pb.ModelReadyResponse(ready=True))

    async def _server_metadata(self, message: bytes, _: float | None) -> bytes:
        _parse(pb.ServerMetadataRequest, message)
        found = server_metadata()
        return _encode(
            pb.ServerMetadataResponse(
                name=found.name, version=found.version, extensions=found.extensions
            )
        )

    async def _model_metadata(self, message: bytes, _: float | None) -> bytes:
        request = _parse(pb.ModelMetadataRequest, message)
        info = find_model(self._models, request.name, request.version or None)
        found = model_metadata(self._models, info, self._limits)
        response = pb.ModelMetadataResponse(
            name=found.name, versions=found.versions, platform=found.platform
        )
        for specs, tensors in ((found.inputs, response.inputs), (found.outputs, response.outputs)):
            for spec in specs:
                tensors.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return _encode(response)

    async def _model_infer(self, message: bytes, left_s: float | None) -> bytes:
        asked = read_call(message, self._limits)
        call = asked.call
        find_model(self._models, call.model, None)
        if left_s is not None:
            call = call._replace(timeout_s=min(left_s, call.timeout_s or left_s))
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        give_up = self._dispatcher.infer(call, partial(_settle, ended))
        try:
            outcome = await ended
        except asyncio.CancelledError:
            if give_up is not None:
                give_up()
            raise
        if isinstance(outcome, SkerryError):
            raise outcome
        return write_answer(asked, outcome)

    async def _repository_index(self, message: bytes, _: float | None) -> bytes:
        request = _parse(pb.RepositoryIndexRequest, message)
        _refuse_repository(request.repository_name)
        response = pb.RepositoryIndexResponse()
        for one in model_states(self._models, ready_only=request.ready):
            response.models.add(
                name=one.name, version=one.version, state=one.state, reason=one.reason
            )
        return _encode(response)

    async def _repository_load(self, message: bytes, _: float | None) -> bytes:
        request = _parse(pb.RepositoryModelLoadRequest, message)
        _refuse_repository(request.repository_name)
        await self._in_thread(partial(load, self._models, request.model_name))
        return _encode(pb.RepositoryModelLoadResponse())

    async def _repository_unload(self, message: bytes, _: float | None) -> bytes:
        request = _parse(pb.RepositoryModelUnloadRequest, message)
        _refuse_repository(request.repository_name)
        await self._in_thread(partial(unload, self._models, request.model_name))
        return _encode(pb.RepositoryModelUnloadResponse())

    async def _in_thread(self, work: Callable[[], None]) -> None:
        ended: asyncio.Future[SkerryError | None] = asyncio.get_running_loop().create_future()
        self._dispatcher.run(work, partial(_settle, ended))
        error = await ended
        if error is not None:
            raise error


def _settle(ended: asyncio.Future[_Made], outcome: _Made) -> None:
    if not ended.done():
        ended.set_result(outcome)


def _parse(kind: type[_Request], message: bytes) -> _Request:
    request: _Request = kind()
    try:
        request.ParseFromString(message)
    except DecodeError as error:
        raise SignatureMismatch(f"is no {kind.DESCRIPTOR.name}", where="message") from error
    return request


def _encode(response: Message) -> bytes:
    data: bytes = response.SerializeToString()
    return data


def _refuse_repository(name: str) -> None:
    if name:
        raise InputError("there is one repository, without a name", where="repository_name")
