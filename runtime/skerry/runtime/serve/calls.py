"""What a request asks of a model, whatever protocol it came by, and what becomes of it."""

from __future__ import annotations

from typing import NamedTuple

from skerry.devices.errors import (
    CancelledError,
    InputError,
    SignatureMismatch,
    SkerryError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
)
from skerry.runtime.engine.base import Arrays
from skerry.runtime.runtime import Answer

__all__ = ["Call", "Outcome", "Status", "retry_seconds", "status_of"]

Outcome = Answer | SkerryError
_RETRY_S = 1.0


class Call(NamedTuple):
    """One inference.

    Attributes:
        model, version: its name, and the version that must answer or None.
        outputs: the names wanted, or None for all.
        timeout_s: the client's own limit, or None.
    """

    model: str
    version: str | None
    inputs: Arrays
    outputs: tuple[str, ...] | None = None
    timeout_s: float | None = None


class Status(NamedTuple):
    """What an error is called over HTTP, and over gRPC."""

    http: int
    grpc: str


_STATUS: tuple[tuple[type[SkerryError], Status], ...] = (
    (SignatureMismatch, Status(400, "INVALID_ARGUMENT")),
    (UnsupportedError, Status(400, "FAILED_PRECONDITION")),
    (InputError, Status(404, "NOT_FOUND")),
    (CancelledError, Status(504, "DEADLINE_EXCEEDED")),
    (ThrottledError, Status(429, "RESOURCE_EXHAUSTED")),
    (UnavailableError, Status(503, "UNAVAILABLE")),
    (SkerryError, Status(500, "INTERNAL")),
)


def status_of(error: SkerryError) -> Status:
    """Whose fault an error is, in the words of both protocols."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def retry_seconds(error: SkerryError) -> float | None:
    """In how many seconds a client may ask again; None where asking again will not help."""
    if isinstance(error, ThrottledError):
        return error.retry_s
    if isinstance(error, UnavailableError) and not isinstance(error, CancelledError):
        return _RETRY_S
    return None
