"""Who is calling, and how much they may say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import msgspec
from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from skerry.devices.errors import InputError, TrustError
from skerry.devices.ids import DeviceId
from skerry.updater.server.admission import hash_token
from skerry.updater.server.enrol import identify
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.records import Device, Operator

__all__ = [
    "bearer",
    "decoded",
    "device_of",
    "fleet_of",
    "is_device_id",
    "limited_body",
    "operator_of",
]

_T = TypeVar("_T")
_TOKEN_CHARACTERS = 4096


def fleet_of(request: Request) -> Fleet:
    """The fleet that this application serves."""
    fleet: Fleet = request.app.state.fleet
    return fleet


def bearer(request: Request) -> str:
    """The token of the Authorization header; HTTPException 401 if there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > _TOKEN_CHARACTERS:
        raise HTTPException(
            401, "say who you are: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
        )
    return token.strip()


def operator_of(request: Request, role: Literal["viewer", "admin"] = "admin") -> Operator:
    """The operator who calls; HTTPException 401 or 403 if it is none, or one who may only look."""
    operator = fleet_of(request).store.access.operator(hash_token(bearer(request)))
    if operator is None:
        raise HTTPException(401, "no operator has this token", {"WWW-Authenticate": "Bearer"})
    if role == "admin" and operator.role != "admin":
        raise HTTPException(403, f"{operator.name} may look, and change nothing")
    return operator


def device_of(request: Request) -> Device:
    """The device that calls; HTTPException 401 if it does not show that it is one of ours."""
    fleet = fleet_of(request)
    try:
        return identify(fleet, bearer(request), fleet.url)
    except TrustError as error:
        raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from error


def is_device_id(text: str) -> bool:
    """Whether `text` could be a device's id; what could not is not asked for in the database."""
    try:
        DeviceId(text)
    except InputError:
        return False
    return True


def limited_body(
    limit: Callable[[Fleet], int], who: Callable[[Request], object] | None = None
) -> Callable[[Request], Awaitable[bytes]]:
    """A dependency that reads the body, or answers 413 before it has read too much, 408 after too
    long.

    Args:
        limit: the longest body in bytes.
        who: raises where the caller may not call; asked before anything is read.
    """

    async def read(request: Request) -> bytes:
        fleet = fleet_of(request)
        if who is not None:
            await run_in_threadpool(who, request)
        most, parts, size = limit(fleet), [], 0
        try:
            async with asyncio.timeout(fleet.limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise HTTPException(413, f"a body of at most {most} bytes, please")
                    parts.append(part)
        except TimeoutError as error:
            raise HTTPException(408, "the body did not arrive in time") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the body was not sent to its end") from error
        return b"".join(parts)

    return read


def decoded(body: bytes, kind: type[_T]) -> _T:
    """The JSON `body` as `kind`.

    Raises:
        InputError: it is something else; the message names the key.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"malformed: {error}", where="body") from error
