"""What each step cost and gained, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from skerry.converter.report.svg import Bar, bars, curve
from skerry.converter.result import Result
from skerry.converter.steps.base import StepRecord

__all__ = ["ShownStep", "shown_steps"]


@dataclass(frozen=True)
class ShownStep:
    """One step, drawn.

    Attributes:
        gained: points of the metric since the step before, or the source.
        kept: parameters, as a share of those before.
        loss, held_out: curves by epoch.
        ratios: channels kept in each layer that lost some; empty where none did.
        zeros: share of zeros in each weight that has some.
    """

    record: StepRecord
    gained: float
    kept: float
    loss: Markup
    held_out: Markup
    ratios: Markup
    zeros: Markup


def shown_steps(result: Result) -> list[ShownStep]:
    """The steps of a conversion, in order."""
    found = []
    metric, count = result.source.metric, result.source.parameters
    for step in result.steps:
        pruned = {name: share for name, share in step.kept.items() if share < 1}
        found.append(
            ShownStep(
                record=step,
                gained=step.metric - metric,
                kept=step.parameters / max(1, count),
                loss=curve(step.loss),
                held_out=curve(step.held_out),
                ratios=_shares(pruned, "stayed"),
                zeros=_shares(step.zeros, "zero"),
            )
        )
        metric, count = step.metric, step.parameters
    return found


def _shares(shares: Mapping[str, float], word: str) -> Markup:
    if not shares:
        return Markup("")
    return bars([Bar(name, share, f"{share:.0%} {word}") for name, share in shares.items()])
