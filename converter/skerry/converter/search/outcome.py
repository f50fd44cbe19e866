"""`search.json`: what a search came to, for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from skerry.converter.search.budget import Budget, Merit, violation
from skerry.converter.search.front import front, verdict
from skerry.converter.search.journal import Entry, StepOutcome, Unseen

__all__ = ["Candidate", "SearchResult", "summary"]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One trial.

    Attributes:
        trial: its number; 0 is the recipe as it was written.
        values: of the space's keys.
        finished: whether it was tried in full. The merit of one that was not is an estimate.
        front: whether no other that was tried in full is better in bytes, latency or points and as
            good in the others.
        within: whether it is within every budget.
        unseen: its points on rows that played no part in choosing, where it was tried in full.
        unseen_within: whether it is within every budget by those points, too.
        recipe: path of the recipe that makes it again, relative to the output folder; empty where
            it was not tried in full.
        problem: why it failed.
    """

    trial: int
    values: dict[str, Any]
    finished: bool
    front: bool
    within: bool
    merit: Merit | None
    unseen: Unseen | None
    unseen_within: bool
    recipe: str
    measured_ms: float
    measured_ratio: float
    quantized_metric: float
    seconds: float
    steps: tuple[StepOutcome, ...]
    sha256: str
    problem: str


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The whole search.

    Attributes:
        artifact: what stands for a candidate, such as `onnx-int8`.
        latency: `counted` or `measured`.
        best: number of the trial that is recommended.
        passed: whether it is within every budget.
        binding, unmet: budgets, as `skerry.converter.search.front.Verdict` has them.
        front: trials on the Pareto front, the smallest first.
    """

    model: str
    artifact: str
    metric: str
    latency: str
    budgets: tuple[str, ...]
    best: int
    passed: bool
    binding: tuple[str, ...]
    unmet: tuple[str, ...]
    front: tuple[int, ...]
    candidates: tuple[Candidate, ...]

    def encode(self) -> bytes:
        """The result as JSON."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic")) + b"\n"


def summary(
    entries: Mapping[tuple[int, int], Entry],
    last_rung: int,
    budgets: Sequence[Budget],
    *,
    model: str,
    artifact: str,
    metric: str,
    latency: str,
) -> SearchResult:
    """The result that a journal's entries amount to.

    Args:
        entries: by trial and rung; at least one trial has a merit at the last rung.
    """
    furthest: dict[int, Entry] = {}
    spent: dict[int, float] = {}
    for (trial, _), entry in sorted(entries.items()):
        spent[trial] = spent.get(trial, 0.0) + entry.seconds
        furthest[trial] = entry
    merits = {
        trial: entry.merit
        for trial, entry in furthest.items()
        if entry.rung == last_rung and entry.merit is not None
    }
    best, on_front = verdict(merits, budgets), front(merits)
    return SearchResult(
        model=model,
        artifact=artifact,
        metric=metric,
        latency=latency,
        budgets=tuple(budget.text for budget in budgets),
        best=best.best,
        passed=best.met,
        binding=best.binding,
        unmet=best.unmet,
        front=on_front,
        candidates=tuple(
            Candidate(
                trial=trial,
                values=entry.values,
                finished=trial in merits,
                front=trial in on_front,
                within=entry.merit is not None and violation(budgets, entry.merit) == 0,
                merit=entry.merit,
                unseen=entry.unseen,
                unseen_within=_unseen_within(entry, budgets),
                recipe=f"candidates/{trial:04d}/recipe.toml" if trial in merits else "",
                measured_ms=entry.measured_ms,
                measured_ratio=entry.measured_ratio,
                quantized_metric=entry.quantized_metric,
                seconds=round(spent[trial], 3),
                steps=entry.steps,
                sha256=entry.sha256,
                problem=entry.problem,
            )
            for trial, entry in sorted(furthest.items())
        ),
    )


def _unseen_within(entry: Entry, budgets: Sequence[Budget]) -> bool:
    if entry.merit is None or entry.unseen is None:
        return False
    points = {"metric": entry.unseen.metric, "drop": entry.unseen.drop}
    return violation(budgets, msgspec.structs.replace(entry.merit, **points)) == 0
