"""The API as a bare ASGI callable: a bounded body in, an answer out, slow models off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.api import Api, Reply, ServeLimits

__all__ = ["Application"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class Application:
    """`async (scope, receive, send)` for HTTP/1.1."""

    def __init__(self, api: Api, runtime: Runtime, limits: ServeLimits) -> None:
        self._api, self._runtime, self._limits = api, runtime, limits

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        body = await self._body(scope, receive)
        if body is None:
            reply = Reply(413, b'{"error":"body: too large"}')
            self._api.metrics.answered(413)
        else:
            reply = await self._answer(scope, body)
        head = scope["method"] == "HEAD"
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            *reply.headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else reply.body})

    async def _answer(self, scope: _Message, body: bytes) -> Reply:
        active = self._runtime.active
        slow = active is not None and active.row_seconds > self._limits.inline_s
        if body and slow:
            return await asyncio.to_thread(self._api.handle, scope["method"], scope["path"], body)
        return self._api.handle(scope["method"], scope["path"], body)

    async def _body(self, scope: _Message, receive: _Receive) -> bytes | None:
        """The request's body; None where it is larger than allowed."""
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._limits.body_bytes:
                return None
        message = await receive()
        first: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return first if len(first) <= self._limits.body_bytes else None
        parts, size = [first], len(first)
        while message.get("more_body", False):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limits.body_bytes:
                return None
        return b"".join(parts)
