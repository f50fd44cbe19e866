"""The search space: which keys of a recipe may change, and to what. Pure.

[search.space]
"step[0].epochs" = { low = 4, high = 16 }            # whole numbers
"step[0].learning_rate" = { low = 1e-3, high = 1e-2, log = true }
"step[1].ratio" = [0.25, 0.5, 0.75]                  # one of these
"step[1]" = [true, false]                            # whether the step is taken at all
"quantize.refinements" = [[], ["bias_correction"]]
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from skerry.devices.errors import RecipeError

__all__ = ["Choices", "Domain", "Range", "Space", "assign", "read_space"]

_KEY = re.compile(r"[A-Za-z0-9_-]+(\[\d+\])?(\.[A-Za-z0-9_-]+(\[\d+\])?)*")
_PART = re.compile(r"([A-Za-z0-9_-]+)(?:\[(\d+)\])?")
_WHOLE_STEP = re.compile(r"step\[(\d+)\]")
_RANGE_KEYS = {"low", "high", "step", "log"}
_MOST_KEYS = 64
_MOST_CHOICES = 256


@dataclass(frozen=True, slots=True)
class Choices:
    """One of some values, of any kind."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """Every value: what is checked before any work."""
        return self.values


@dataclass(frozen=True, slots=True)
class Range:
    """A number from low to high, both included; whole where both are.

    Attributes:
        step: distance between values, or None for any.
        log: whether small values are tried as finely as large ones.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def ends(self) -> tuple[Any, ...]:
        """The two ends: what is checked before any work."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the range's."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return self.low <= value <= self.high and math.isclose(steps, round(steps), abs_tol=1e-6)

    @property
    def whole(self) -> bool:
        """Whether values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Domain = Choices | Range
Space = Mapping[str, Domain]


def read_space(table: Mapping[str, Any], where: str) -> dict[str, Domain]:
    """The domains of `[search.space]`, by dotted key.

    Args:
        where: the file, for messages.

    Raises:
        RecipeError: a key or a domain has another form.
    """
    if not 0 < len(table) <= _MOST_KEYS:
        raise RecipeError(
            f"{len(table)} keys to search over",
            where=f"{where}: search.space",
            remedy=f'name 1 to {_MOST_KEYS}, such as "step[0].epochs" = [4, 8]',
        )
    return {key: _domain(key, spec, f"{where}: search.space: {key}") for key, spec in table.items()}


def _domain(key: str, spec: Any, where: str) -> Domain:
    if not _KEY.fullmatch(key):
        raise RecipeError("is no key", where=where, remedy='write "table.key" or "step[0].key"')
    if isinstance(spec, list):
        if not 0 < len(spec) <= _MOST_CHOICES:
            raise RecipeError(
                f"{len(spec)} choices", where=where, remedy=f"give 1 to {_MOST_CHOICES}"
            )
        if _WHOLE_STEP.fullmatch(key) and any(not isinstance(one, bool) for one in spec):
            raise RecipeError(
                "a whole step is taken or not", where=where, remedy="write [true, false]"
            )
        return Choices(tuple(spec))
    if isinstance(spec, dict):
        return _range(spec, where)
    raise RecipeError(
        f"{spec!r} is no domain", where=where, remedy="give a list of choices, or { low, high }"
    )


def _range(spec: Mapping[str, Any], where: str) -> Range:
    unknown = sorted(set(spec) - _RANGE_KEYS)
    if unknown or not {"low", "high"} <= set(spec):
        word = f"unknown key {unknown[0]!r}" if unknown else "low and high are needed"
        raise RecipeError(word, where=where, remedy="a range is { low, high, step, log }")
    low, high, step, log = (spec.get(name) for name in ("low", "high", "step", "log"))
    numbers = [value for value in (low, high, step) if value is not None]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
        raise RecipeError("low, high and step are numbers", where=where, remedy="correct them")
    found = Range(low, high, step, bool(log))  # type: ignore[arg-type]  # numbers, checked above
    if not found.low < found.high or (found.log and (found.low <= 0 or step is not None)):
        raise RecipeError(
            f"{low} to {high} is no range",
            where=where,
            remedy="let low be below high; with log, above 0 and without step",
        )
    if step is not None and not 0 < step <= found.high - found.low:
        raise RecipeError(f"step {step} does not fit", where=where, remedy="give a smaller one")
    return found


def assign(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a recipe document with these keys set, and without the search itself.

    Args:
        values: by dotted key; `step[n]` → false leaves a step out.

    Raises:
        KeyError: a key runs through something that is no table or list.
    """
    made = copy.deepcopy(dict(document))
    made.pop("search", None)
    left_out = []
    for key, value in values.items():
        if whole := _WHOLE_STEP.fullmatch(key):
            _entry(made, "step", int(whole[1]))
            left_out += [] if value else [int(whole[1])]
            continue
        *path, (last, index) = _parts(key)
        table: Any = made
        for name, number in path:
            table = table.setdefault(name, {}) if number is None else _entry(table, name, number)
            if not isinstance(table, dict):
                raise KeyError(name)
        if index is not None:
            raise KeyError(last)
        table[last] = copy.deepcopy(value)
    for number in sorted(left_out, reverse=True):
        del made["step"][number]
    return made


def _entry(table: Mapping[str, Any], name: str, number: int) -> Any:
    entries = table.get(name)
    if not isinstance(entries, list) or number >= len(entries):
        raise KeyError(f"{name}[{number}]")
    return entries[number]


def _parts(key: str) -> Iterator[tuple[str, int | None]]:
    for part in key.split("."):
        found = _PART.fullmatch(part)
        if found is None:
            raise KeyError(part)
        yield found[1], None if found[2] is None else int(found[2])
