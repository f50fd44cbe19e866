"""The report of a search: what candidates cost and reach, and the recipe of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from skerry.converter.report.scatter import Dot, scatter
from skerry.converter.search.budget import Budget, Merit, read_budgets
from skerry.converter.search.outcome import Candidate, SearchResult
from skerry.devices.output import human_bytes

__all__ = ["build_search_report"]

_ORDER = ("beyond", "within", "front", "best")
_Value = Callable[[Merit], float]


def build_search_report(result: SearchResult) -> bytes:
    """One HTML file that opens without the internet; it links to the recipes beside it."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["bytes"] = human_bytes
    environment.filters["short"] = _short
    folder = files("skerry.converter.report")
    style = folder.joinpath("style.css").read_text("utf-8")
    page = environment.from_string(folder.joinpath("search.html.j2").read_text("utf-8"))
    by_number = {one.trial: one for one in result.candidates}
    budgets: dict[str, Budget] = {budget.kind: budget for budget in read_budgets(result.budgets)}
    return page.render(
        result=result,
        style=Markup(style),  # noqa: S704 - ours
        best=by_number[result.best],
        front=[by_number[number] for number in result.front],
        keys=sorted(by_number[result.best].values),
        changed={number: _changed(by_number[number], by_number[0]) for number in result.front},
        steps={number: _steps(by_number[number]) for number in result.front},
        sizes=_plot(result, lambda merit: merit.bytes, "bytes", _bytes, budgets, "size"),
        latencies=_plot(
            result,
            lambda merit: merit.latency_ratio,
            f"latency of the source's, {result.latency}",
            lambda ratio: f"{ratio:.2f}×",
            budgets,
            "latency",
        ),
    ).encode()


def _short(value: Any) -> str:
    """A value of the space, as a recipe would have it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _bytes(count: float) -> str:
    return human_bytes(round(count))


def _plot(
    result: SearchResult,
    value: _Value,
    axis: str,
    tick: Callable[[float], str],
    budgets: dict[str, Budget],
    kind: str,
) -> Markup:
    """Points against one cost. Candidates that were not tried in full are left out: theirs are
    estimates."""
    finished = [one for one in result.candidates if one.finished]
    dots = {one.trial: _dot(one, result, value) for one in finished}
    limit, least = budgets.get(kind), budgets.get("accuracy")
    best = next(one.merit for one in finished if one.trial == result.best)
    along = [dots[number] for number in result.front]
    return scatter(
        # Better ones are drawn later, and so lie above.
        sorted(
            dots.values(), key=lambda dot: ("beyond", "within", "front", "best").index(dot.kind)
        ),
        (axis, f"{result.metric}, points"),
        tick,
        _outline(along),
        (
            None if limit is None or best is None else _limit(limit, best, kind),
            None if least is None or best is None else _floor(least, best),
        ),
    )


def _outline(dots: list[Dot]) -> list[Dot]:
    """Those that none beats on these two axes alone, from the left to the right."""
    found: list[Dot] = []
    for dot in sorted(dots, key=lambda one: (one.x, -one.y)):
        if not found or dot.y > found[-1].y:
            found.append(dot)
    return found


def _dot(one: Candidate, result: SearchResult, value: _Value) -> Dot:
    kind = "within" if one.within else "beyond"
    kind = "best" if one.trial == result.best else "front" if one.front else kind
    assert one.merit is not None
    words = ", ".join(f"{key} = {_short(found)}" for key, found in one.values.items())
    name = f"trial {one.trial}: {one.merit.metric:.2f}, {human_bytes(one.merit.bytes)}; {words}"
    return Dot(value(one.merit), one.merit.metric, name, kind, one.recipe)


def _limit(budget: Budget, merit: Merit, kind: str) -> float:
    """Where a budget lies on the axis of its plot: bytes, or a share of the source's latency."""
    if kind == "size":
        return budget.limit * merit.bytes / merit.bytes_ratio if budget.relative else budget.limit
    if budget.relative:
        return budget.limit
    return budget.limit * merit.latency_ratio / merit.latency_ms


def _floor(budget: Budget, merit: Merit) -> float:
    """The least points that an accuracy budget allows."""
    return merit.metric + merit.drop - budget.limit if budget.relative else budget.limit


def _changed(one: Candidate, written: Candidate) -> list[str]:
    """The keys that differ from the recipe as it was written."""
    return sorted(key for key, value in one.values.items() if value != written.values.get(key))


def _steps(one: Candidate) -> list[dict[str, Any]]:
    """What each step cost and gained, against the step before it."""
    rows: list[dict[str, Any]] = []
    before: float | None = None
    for step in one.steps:
        gain = None if before is None else step.metric - before
        rows.append({"step": step, "gain": gain})
        before = step.metric
    return rows
