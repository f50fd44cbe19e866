"""What a server says when it refuses, and the same error on this side of the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from skerry.devices.errors import (
    ExitCode,
    GateError,
    InputError,
    SkerryError,
    TrustError,
    UnavailableError,
)
from skerry.updater.fetch.base import BusyError, RefusedError, Said

__all__ = ["parse_said", "plainly", "printable"]

_TEXT = 500
_KINDS: dict[int, type[SkerryError]] = {
    ExitCode.BAD_INPUT: InputError,
    ExitCode.GATE_FAILED: GateError,
    ExitCode.TRUST_REFUSED: TrustError,
    ExitCode.UNAVAILABLE: UnavailableError,
}


def printable(text: str) -> str:
    """Text of a stranger, safe for a terminal and at most 500 signs long."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:_TEXT]).strip()


def parse_said(body: bytes) -> Said | None:
    """The refusal in the body of an answer, its texts printable and short; None if it is none."""
    try:
        said = msgspec.json.decode(body, type=Said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    problem = printable(said.problem)
    if not problem:
        return None
    return Said(problem, said.exit_code, _word(said.where), _word(said.remedy))


@contextmanager
def plainly() -> Iterator[None]:
    """Raise what a server said as the error that it was there, for people and exit codes.

    Without this a device's `RefusedError` and `BusyError` tell what may be tried again.

    Raises:
        SkerryError: of the kind that the server's exit code names.
        RefusedError, BusyError: as they come, where the server said nothing in that form.
    """
    try:
        yield
    except (RefusedError, BusyError) as error:
        if error.said is None:
            raise
        said = error.said
        kind = _KINDS.get(said.exit_code, SkerryError)
        raise kind(said.problem, where=said.where or error.where, remedy=said.remedy) from error


def _word(text: str | None) -> str | None:
    return (printable(text) or None) if text else None
