"""Gates: whether an artifact is good enough. Pure."""

from __future__ import annotations

import msgspec

from skerry.converter.recipe import Gate

__all__ = ["Measured", "Verdict", "judge"]


class Verdict(msgspec.Struct, frozen=True):
    """One gate's answer: what was allowed, what was measured, whether that is within."""

    limit: float
    value: float
    passed: bool


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What gates look at, by the gate's name; None where it is not to be judged.

    Latency is not where the format has no engine of its own here; bytes and latency are not of an
    artifact in the precision of the source.
    """

    accuracy_drop: float
    bytes_ratio: float | None
    latency_ratio: float | None
    agreement: float
    parity: float
    snr_db: float


_AT_LEAST = {"agreement", "snr_db"}


def judge(gate: Gate, measured: Measured) -> dict[str, Verdict]:
    """A verdict for each limit that the recipe sets and that could be measured."""
    verdicts = {}
    for name in gate.__struct_fields__:
        limit, value = getattr(gate, name), getattr(measured, name)
        if limit is None or value is None:
            continue
        passed = value >= limit if name in _AT_LEAST else value <= limit
        verdicts[name] = Verdict(limit, value, passed)
    return verdicts
