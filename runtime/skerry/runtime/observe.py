"""What the runtime tells of each call, to whoever keeps count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from skerry.devices.digest import Digest
from skerry.runtime.engine.base import Arrays

__all__ = ["Observation", "Observer"]


@dataclass(frozen=True, slots=True)
class Observation:
    """One call, answered or not.

    Attributes:
        manifest: the bundle's manifest digest.
        artifact: the artifact's name.
        seconds: from request to answer.
        rows: length of the batch; 0 if the request was refused.
        inputs, outputs: the arrays of an answered call, as callers see them. They must not be kept.
        error: None, or the kind of failure (`signature`, `engine`, `deadline`, …).
    """

    manifest: Digest
    artifact: str
    seconds: float
    rows: int
    inputs: Arrays
    outputs: Arrays
    error: str | None = None


class Observer(Protocol):
    """Receives every call. Must be quick and must not raise."""

    def observed(self, call: Observation) -> None:
        """Take note of one call."""
