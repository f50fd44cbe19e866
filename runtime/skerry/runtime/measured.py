"""Choosing by measuring: which artifact, threads and execution provider answer a row soonest here.

It is done at the first activation and remembered, so that a restart costs nothing. What could not
be loaded, or did not reproduce its golden outputs, is no choice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from skerry.devices.cpus import usable_cpus
from skerry.devices.errors import SkerryError, UnavailableError
from skerry.devices.files import write_atomically
from skerry.runtime.bundle.card import ArtifactSpec
from skerry.runtime.engine.base import EngineOptions

__all__ = ["Candidate", "Choices", "MeasureLimits", "Measurement", "key_of", "measure", "variants"]

_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "ai-edge-litert")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureLimits:
    """How candidates are compared.

    Attributes:
        calls: timed calls of one row for each candidate.
        seconds: after which fewer will do.
        gain: how many times quicker than the first another must be to be preferred.
        remembered: the most choices that are kept, the oldest going first.
        file_bytes: the longest file of choices that is read.
    """

    calls: int = 50
    seconds: float = 1.0
    gain: float = 1.1
    remembered: int = 64
    file_bytes: int = 1 << 20


class Candidate(NamedTuple):
    """An artifact, and how to run it."""

    artifact: str
    engine: EngineOptions


class Measurement(msgspec.Struct, frozen=True):
    """What one candidate took: the median seconds of a row, or why there is none."""

    candidate: Candidate
    seconds: float | None = None
    problem: str = ""


def variants(
    among: Sequence[ArtifactSpec], engine: EngineOptions, providers: Sequence[str]
) -> list[Candidate]:
    """What is worth measuring, what would be run unmeasured first.

    Args:
        among: the artifacts that would do.
        engine: the options asked for. Where they have several threads, one is tried too.
        providers: execution providers besides the CPU, tried on ONNX artifacts.
    """
    found = []
    for artifact in among:
        found.append(Candidate(artifact.name, engine))
        if engine.threads > 1:
            found.append(Candidate(artifact.name, replace(engine, threads=1)))
        if artifact.format == "onnx" and not engine.providers:
            found += [
                Candidate(artifact.name, replace(engine, providers=(one,))) for one in providers
            ]
    return found


def measure(
    candidates: Sequence[Candidate],
    timed: Callable[[Candidate], Callable[[], object]],
    done: Callable[[], object],
    limits: MeasureLimits,
) -> list[Measurement]:
    """Time each candidate in turn, one loaded at a time. The chosen one comes first.

    Args:
        timed: loads a candidate, and gives what to time.
        done: closes it.

    Raises:
        SkerryError: none could be loaded; the first one's error.
    """
    found, errors = [], []
    for one in candidates:
        try:
            call = timed(one)
        except SkerryError as error:
            errors.append(error)
            found.append(Measurement(one, None, str(error)))
            continue
        try:
            found.append(Measurement(one, _seconds(call, limits)))
        finally:
            done()
    if all(one.seconds is None for one in found):
        raise errors[0]
    ranked = sorted(found, key=lambda one: (one.seconds is None, one.seconds or 0.0))
    first = next(one for one in found if one.seconds is not None)
    best = ranked[0]
    assert best.seconds is not None
    assert first.seconds is not None
    if first.seconds < best.seconds * limits.gain:
        ranked.remove(first)
        ranked.insert(0, first)
    return ranked


class Choices:
    """What was chosen before, in a JSON file. One that cannot be read or written is done without.

    Args:
        path: None to remember nothing.
    """

    def __init__(self, path: Path | None, limits: MeasureLimits | None = None) -> None:
        self._path, self.limits = path, limits or MeasureLimits()

    def get(self, key: str) -> list[Measurement] | None:
        """What was measured under `key`, the chosen one first."""
        return self._all().get(key)

    def put(self, key: str, found: list[Measurement]) -> None:
        """Remember what was measured."""
        if self._path is None:
            return
        others = [(k, old) for k, old in self._all().items() if k != key]
        kept = dict([*others[-(self.limits.remembered - 1) :], (key, found)])
        with suppress(UnavailableError, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")

    def _all(self) -> dict[str, list[Measurement]]:
        if self._path is None:
            return {}
        try:
            if self._path.stat().st_size > self.limits.file_bytes:
                return {}
            return _decode(self._path.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}


_decode = msgspec.json.Decoder(dict[str, list[Measurement]]).decode


def key_of(manifest: str, candidates: Sequence[Candidate]) -> str:
    """What a choice holds for: this bundle, these candidates, these libraries, these CPUs."""
    libraries = []
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            libraries.append(f"{name} {version(name)}")
    parts = (manifest, list(candidates), libraries, usable_cpus())
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _seconds(call: Callable[[], object], limits: MeasureLimits) -> float:
    took: list[float] = []
    end = time.perf_counter() + limits.seconds
    while len(took) < limits.calls and (len(took) < 3 or time.perf_counter() < end):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return median(took)
