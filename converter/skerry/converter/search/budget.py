"""Budgets: what a device has room and time for, and how good the model must be. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from skerry.devices.errors import InputError

__all__ = ["Budget", "Merit", "read_budgets", "violation"]

_KINDS = {"size": ("", "B", "kB", "MB", "GB", "x"), "latency": ("us", "ms", "s", "x")}
_KINDS["accuracy"] = ("",)
_FACTORS = {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "us": 1e-3, "ms": 1.0, "s": 1e3}
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([A-Za-z]*)")
_EXAMPLES = "such as size=1MB, size=0.1x, latency=0.25x, latency=3ms, accuracy=98.5, accuracy=-0.4"


class Merit(msgspec.Struct, frozen=True):
    """What one candidate weighs, takes and reaches.

    Attributes:
        bytes: of its artifact; bytes_ratio: of the source as fp32.
        latency_ms: of one row on one thread; latency_ratio: of the source as fp32.
        metric: points; drop: points below the source.
    """

    bytes: int
    bytes_ratio: float
    latency_ms: float
    latency_ratio: float
    metric: float
    drop: float


class Budget(msgspec.Struct, frozen=True):
    """One limit.

    Attributes:
        kind: what it is on.
        limit: in bytes, ms or points; where `relative`, a share of the source's, or (accuracy)
            points below the source.
        text: as it was given.
    """

    kind: Literal["size", "latency", "accuracy"]
    limit: float
    relative: bool
    text: str

    def excess(self, merit: Merit) -> float:
        """How far beyond the limit a candidate is, as a share of the limit; 0 or less within it.

        Accuracy counts in points: one point is as far as a tenth of a size.
        """
        if self.kind == "accuracy":
            short = merit.drop - self.limit if self.relative else self.limit - merit.metric
            return short / 10
        if self.kind == "size":
            value = merit.bytes_ratio if self.relative else merit.bytes
        else:
            value = merit.latency_ratio if self.relative else merit.latency_ms
        return value / self.limit - 1


def read_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """Budgets from `kind=limit` texts.

    Raises:
        InputError: one has another form, or a kind is given twice.
    """
    found: dict[str, Budget] = {}
    for text in texts:
        budget = _read(text)
        if budget.kind in found:
            raise InputError(
                f"two budgets for {budget.kind}", where="--budget", remedy="give one of each kind"
            )
        found[budget.kind] = budget
    return tuple(found.values())


def _read(text: str) -> Budget:
    kind, _, limit = text.partition("=")
    number = _NUMBER.fullmatch(limit.strip())
    units: Mapping[str, tuple[str, ...]] = _KINDS
    if kind not in units or number is None or number[2] not in units[kind]:
        raise InputError(
            f"{text!r} is no budget", where="--budget", remedy=f"write one {_EXAMPLES}"
        )
    value, unit = float(number[1]), number[2]
    if kind == "accuracy":
        return Budget("accuracy", abs(value), number[1].startswith("-"), text)  # -0 is the source's
    if value <= 0:
        raise InputError(f"{text!r} leaves nothing", where="--budget", remedy="give more than 0")
    relative = unit == "x"
    return Budget(
        "size" if kind == "size" else "latency",
        value if relative else value * _FACTORS[unit],
        relative,
        text,
    )


def violation(budgets: Sequence[Budget], merit: Merit) -> float:
    """How far beyond all budgets together; 0 where every one is met."""
    return sum(max(0.0, budget.excess(merit)) for budget in budgets)
