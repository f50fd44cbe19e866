"""Who answers a call: the release asked, and where it cannot, whoever may stand in for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from skerry.devices.errors import CancelledError, QuotaError, SkerryError, UnavailableError
from skerry.runtime.engine.base import Arrays
from skerry.runtime.observe import Observation, Observer
from skerry.runtime.prepared import Prepared

__all__ = ["ask", "is_late", "kind_of", "stand_ins", "tell"]


def ask(
    release: Prepared,
    inputs: Arrays,
    outputs: Sequence[str] | None,
    now: float,
    until: float | None,
) -> Arrays:
    """Ask one release, unless its breaker is open.

    Raises:
        SignatureMismatch: the call does not fit the signature.
        CancelledError: the caller's deadline has come.
        UnavailableError: the engine failed, or is not asked after failures in a row.
    """
    breaker = release.breaker
    if not breaker.allows(now):
        raise UnavailableError(
            f"not asked, after {breaker.failures} failures in a row",
            where=release.info.artifact,
        )
    try:
        found = release.session.predict(inputs, outputs, until)
    except UnavailableError as error:
        if is_late(error, until):
            breaker.abandoned()
        else:
            breaker.failed(time.perf_counter())
        raise
    except BaseException:
        breaker.abandoned()
        raise
    if breaker.failures:
        breaker.succeeded()
    return found


def stand_ins(failed: Prepared, previous: Prepared | None) -> Iterator[tuple[str, Prepared]]:
    """Who may answer for `failed`: its standby, and the previous release of the same signature."""
    if failed.standby is not None:
        yield "standby", failed.standby
    if previous is not None and previous is not failed and previous.same_signature(failed):
        yield "previous", previous


def is_late(error: SkerryError, until: float | None) -> bool:
    """Whether a call ended because its caller's own deadline came."""
    return isinstance(error, CancelledError) and until is not None and time.monotonic() >= until


def kind_of(error: SkerryError, until: float | None) -> str:
    """What an observer calls an error: `cancelled`, `overload`, `engine` or `signature`."""
    if is_late(error, until):
        return "cancelled"
    if isinstance(error, QuotaError):
        return "overload"
    return "engine" if isinstance(error, UnavailableError) else "signature"


def tell(
    observer: Observer | None,
    release: Prepared,
    began: float,
    inputs: Arrays,
    found: Arrays,
    error: str | None = None,
) -> None:
    """Tell `observer` of a call that began at `began` (`time.perf_counter`)."""
    if observer is None:
        return
    rows = 0 if error else len(next(iter(found.values())))
    observer.observed(
        Observation(
            release.manifest,
            release.artifact.name,
            time.perf_counter() - began,
            rows,
            {} if error else inputs,
            found,
            error,
        )
    )
