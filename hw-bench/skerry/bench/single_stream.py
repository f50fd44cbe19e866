"""The single-stream plan: one query after the other, as MLPerf LoadGen's scenario of that name.

Every artifact of a run is measured in the same run, query by query in turn, so that whatever the
machine does meanwhile falls on all of them alike. The outputs of the calls are checked against the
golden samples: a wrong answer given quickly is not a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.bench.machine import Machine, Reading, read_machine, read_now
from skerry.bench.stats import Percentile, Ratio, paired_ratio, percentile

__all__ = ["Measured", "Plan", "Result", "Subject", "measure"]

_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long to measure.

    Attributes:
        seconds: least duration, for all subjects together.
        queries: least queries of each subject.
        warm_up: queries before the clock starts.
    """

    seconds: float = 5.0
    queries: int = 256
    warm_up: int = 16


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        name: the artifact's name.
        digest: `sha256:…` of the artifact.
        size: of the artifact in bytes.
        engine: library and version.
        call: answers one query.
        queries: the inputs, one query each; used in turn.
        check: raises GoldenError if the answers to all queries are not the golden ones.
    """

    name: str
    digest: str
    size: int
    engine: str
    call: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]
    queries: Sequence[Mapping[str, NDArray[Any]]]
    check: Callable[[Sequence[dict[str, NDArray[Any]]]], None]


class Measured(msgspec.Struct, frozen=True):
    """One subject's figures; times in milliseconds."""

    name: str
    digest: str
    bytes: int
    engine: str
    queries: int
    latency_ms: dict[str, Percentile]
    mean_ms: float
    ratio: Ratio | None
    checked: bool


class Result(msgspec.Struct, frozen=True):
    """One run, complete with what it ran on."""

    plan: str
    seconds: float
    machine: Machine
    before: Reading
    after: Reading
    subjects: tuple[Measured, ...]


def measure(
    subjects: Sequence[Subject], plan: Plan, advance: Callable[[float], None] = lambda _: None
) -> Result:
    """Run the plan.

    Args:
        subjects: the first is what ratios of the others are taken against.
        plan: how long.
        advance: told the seconds measured so far.

    Raises:
        GoldenError: a subject's answers are not its golden ones.
    """
    for subject in subjects:
        subject.check([subject.call(query) for query in subject.queries])
        for number in range(plan.warm_up):
            subject.call(subject.queries[number % len(subject.queries)])
    before, began = read_now(), time.perf_counter()
    times: list[list[float]] = [[] for _ in subjects]
    rounds = 0
    while rounds < plan.queries or time.perf_counter() - began < plan.seconds:
        for subject, sample in zip(subjects, times, strict=True):
            query = subject.queries[rounds % len(subject.queries)]
            start = time.perf_counter()
            subject.call(query)
            sample.append(time.perf_counter() - start)
        rounds += 1
        advance(time.perf_counter() - began)
    samples = [np.array(sample) for sample in times]
    return Result(
        plan="single-stream",
        seconds=time.perf_counter() - began,
        machine=read_machine(),
        before=before,
        after=read_now(),
        subjects=tuple(
            _figures(subject, sample, samples[0] if number else None)
            for number, (subject, sample) in enumerate(zip(subjects, samples, strict=True))
        ),
    )


def _figures(
    subject: Subject, sample: NDArray[np.float64], base: NDArray[np.float64] | None
) -> Measured:
    milliseconds = sample * 1e3
    return Measured(
        name=subject.name,
        digest=subject.digest,
        bytes=subject.size,
        engine=subject.engine,
        queries=len(sample),
        latency_ms={name: percentile(milliseconds, p) for name, p in _PERCENTILES.items()},
        mean_ms=float(milliseconds.mean()),
        ratio=None if base is None else paired_ratio(sample, base),
        checked=True,
    )
