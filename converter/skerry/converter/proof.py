"""Proof: every artifact is run on the whole evaluation set, where it was built."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.converter.coreml_exec import MilProgram
from skerry.converter.data.base import Dataset
from skerry.converter.emit import Emitted
from skerry.converter.result import Latency
from skerry.runtime.engine.base import Arrays, Engine, EngineOptions
from skerry.runtime.engine.select import open_engine

__all__ = ["Outputs", "ProofLimits", "Runner", "not_finite", "open_runner", "pace"]

Outputs = dict[str, NDArray[Any]]


def not_finite(outputs: Outputs) -> str:
    """Which output has NaN or infinite values, and in how many rows; empty where none has.

    Nothing can be said of such rows: neither noise nor a tolerance.
    """
    for name, array in outputs.items():
        if array.dtype.kind == "f":
            rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
            if len(rows):
                count = f"{len(rows)} of {len(array)} rows, first in row {rows[0]}"
                return f"the output {name} is not finite in {count}"
    return ""


@dataclass(frozen=True)
class ProofLimits:
    """How proof is taken.

    Attributes:
        batch_rows: rows given to an engine at once.
        warm_calls: calls before the clock starts.
        timed_calls: calls of each of the two files whose latency is compared.
        turn_calls: how many of them come one after the other.
        longest_seconds: after which no more calls are timed.
        least_calls: timed in any case.
    """

    batch_rows: int = 64
    warm_calls: int = 10
    timed_calls: int = 400
    turn_calls: int = 10
    longest_seconds: float = 4.0
    least_calls: int = 20


@dataclass(frozen=True)
class Runner:
    """An emitted file in its engine, answering under the names that callers use."""

    emitted: Emitted
    engine: Engine | MilProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, rows: Arrays) -> Outputs:
        """Every output for some rows, as float32 where the file gives a smaller float."""
        own = {
            spec.name: rows[name].astype(spec.dtype, copy=False)
            for name, spec in zip(self.inputs, self.emitted.inputs, strict=True)
        }
        found = self.engine.run(own)
        given = {}
        for name, spec in zip(self.outputs, self.emitted.outputs, strict=True):
            array = np.asarray(found[spec.name])
            given[name] = array.astype(np.float32) if array.dtype == np.float16 else array
        return given

    def over(
        self,
        data: Dataset,
        limits: ProofLimits,
        advance: Callable[[int], None],
    ) -> Outputs:
        """Every output for the whole data set, rows in order."""
        parts = []
        for batch in data.batches(limits.batch_rows):
            parts.append(self(batch))
            advance(len(next(iter(batch.values()))))
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}


def open_runner(emitted: Emitted, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Runner:
    """The engine that runs this file here: Core ML by the MIL executor, the others by their own."""
    engine: Engine | MilProgram
    if emitted.format == "coreml":
        engine = MilProgram.load(emitted.path)
    else:
        engine = open_engine(emitted.format, emitted.path, EngineOptions(threads=1))
    return Runner(emitted, engine, inputs, outputs)


def pace(
    runner: Runner, baseline: Runner, data: Dataset, limits: ProofLimits
) -> tuple[Latency, Latency]:
    """Latency of one row on one thread, of a file and of the file it is held against.

    Some calls of the one and some of the other take turns, so that whatever else the machine does
    falls on both alike. A turn's first call is not counted: it finds the other file's weights in
    the caches, and the smaller file would pay most for that.
    """
    pair = (runner, baseline)
    times: tuple[list[float], list[float]] = ([], [])
    rows = [data.rows(slice(i, i + 1)).inputs for i in range(min(len(data), limits.timed_calls))]
    for call in range(limits.warm_calls):
        for one in pair:
            one(rows[call % len(rows)])
    end = time.perf_counter() + limits.longest_seconds
    for begin in range(0, limits.timed_calls, limits.turn_calls):
        order = (0, 1) if begin // limits.turn_calls % 2 else (1, 0)
        for which in order:
            pair[which](rows[begin % len(rows)])
            for call in range(begin, begin + limits.turn_calls):
                began = time.perf_counter()
                pair[which](rows[call % len(rows)])
                times[which].append(time.perf_counter() - began)
        if begin + limits.turn_calls >= limits.least_calls and time.perf_counter() > end:
            break
    return _latency(times[0]), _latency(times[1])


def _latency(seconds: list[float]) -> Latency:
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return Latency(round(float(p50), 5), round(float(p99), 5))
