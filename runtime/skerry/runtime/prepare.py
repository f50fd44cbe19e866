"""Bringing a bundle to where it could serve: a step that fails leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from skerry.runtime.batching import rows_of
from skerry.runtime.breaker import Breaker, BreakerLimits
from skerry.runtime.bundle.card import ArtifactSpec, Format
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.choose import candidates, choose
from skerry.runtime.engine.base import Arrays, Engine, EngineOptions
from skerry.runtime.engine.caching import CacheLimits, CachingEngine
from skerry.runtime.engine.select import available_formats, available_providers, open_engine
from skerry.runtime.golden import check_golden
from skerry.runtime.independence import rows_are_independent
from skerry.runtime.measured import Candidate, Choices, Measurement, key_of, measure, variants
from skerry.runtime.prepared import Prepared
from skerry.runtime.room import SwapLimits
from skerry.runtime.session import Session, SessionLimits

if TYPE_CHECKING:
    from skerry.runtime.engine.isolated import IsolationLimits

__all__ = ["RuntimeOptions", "chosen_artifact", "needed_bytes", "prepare"]

_BATCH_ROWS = 8
_BY_BATCH = "int8-dynamic"  # one scale for all rows of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How a device runs its models.

    Attributes:
        artifact: the artifact to run; None to choose by `formats`.
        formats: what may run, preferred first (a profile's `formats`); None for whatever engine is
            installed.
        measure: choose the quickest of the artifacts of one precision, of one thread or several,
            and of the execution providers here; None to choose without measuring.
        warm_up_runs: single-row calls before a release may serve, at least 1.
        isolation: run the engine in a process of its own, within these limits.
        cache: keep answers, within these limits.
        breaker: when to stop asking an engine that fails.
        standby: a second artifact of each bundle, that answers where the first one cannot.
        default: what is answered where no engine can: a row of each output, or None for an error.
        memory: what the releases together may take, and how calls wait where that is one release.
    """

    artifact: str | None = None
    formats: tuple[Format, ...] | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    session: SessionLimits = field(default_factory=SessionLimits)
    measure: Choices | None = None
    warm_up_runs: int = 3
    isolation: IsolationLimits | None = None
    cache: CacheLimits | None = None
    breaker: BreakerLimits = field(default_factory=BreakerLimits)
    standby: str | None = None
    default: Arrays | None = None
    memory: SwapLimits = field(default_factory=SwapLimits)


def chosen_artifact(bundle: Bundle, options: RuntimeOptions) -> ArtifactSpec:
    """The artifact that `prepare` runs where nothing is measured.

    Raises:
        BundleError, UnsupportedError: as `prepare`.
    """
    formats = available_formats() if options.formats is None else options.formats
    return choose(bundle.card, formats, artifact=options.artifact)


def needed_bytes(bundle: Bundle, options: RuntimeOptions, artifact: str | None = None) -> int:
    """How much memory `prepare` is taken to need, with the same arguments and errors."""
    wanted = artifact or options.artifact
    formats = available_formats() if options.formats is None else options.formats
    among = candidates(bundle.card, formats, artifact=wanted)
    most = max(one.blob.size for one in (among[:1] if options.measure is None else among))
    total = options.memory.footprint.of(most)
    if options.standby is not None and artifact is None:
        total += options.memory.footprint.of(bundle.card.artifact(options.standby).blob.size)
    return total


def prepare(bundle: Bundle, options: RuntimeOptions, artifact: str | None = None) -> Prepared:
    """Digests → choice of artifact → engine → golden samples → warm-up.

    Args:
        artifact: the one to run; None for the options' choice.

    Raises:
        TrustError: a blob is not what its digest says.
        BundleError: the bundle or the artifact is malformed, or a blob is missing.
        UnsupportedError: nothing here runs it.
        MissingExtraError: the engine's library is not installed.
        GoldenError: the artifact does not reproduce its golden outputs here.
    """
    formats = available_formats() if options.formats is None else options.formats
    wanted = artifact or options.artifact
    chosen = choose(bundle.card, formats, artifact=wanted)
    if options.measure is not None:
        among = candidates(bundle.card, formats, artifact=wanted)
        best = _measured(bundle, options, among, options.measure)[0].candidate
        chosen = bundle.card.artifact(best.artifact)
        options = replace(options, engine=best.engine)
    standby = None
    if options.standby is not None and options.standby != chosen.name and artifact is None:
        standby = prepare(bundle, options, options.standby)
    try:
        return _load(bundle, options, chosen, standby)
    except BaseException:
        if standby is not None:
            standby.close()
        raise


def _load(
    bundle: Bundle, options: RuntimeOptions, chosen: ArtifactSpec, standby: Prepared | None
) -> Prepared:
    bundle.verify(chosen.name)
    engine = _open(chosen, bundle, options)
    try:
        session = Session(bundle.card, chosen, engine, options.session)
        arrays = bundle.golden()
        golden = check_golden(bundle.card, chosen, engine, arrays)
        seconds = _warm_up(session, _rows(bundle, arrays, 1), max(1, options.warm_up_runs))
        batch = _rows(bundle, arrays, min(_BATCH_ROWS, golden.rows, options.session.rows))
        gain = rows_of(batch) * seconds / _warm_up(session, batch, max(1, options.warm_up_runs))
        independent = chosen.precision != _BY_BATCH and rows_are_independent(
            session, _rows(bundle, arrays, None), chosen.tolerance
        )
        if options.cache is not None:
            engine = CachingEngine(engine, options.cache, chosen.blob.digest, seconds)
            session = Session(bundle.card, chosen, engine, options.session)
    except BaseException:
        engine.close()
        raise
    return Prepared(
        bundle,
        chosen,
        engine,
        session,
        golden,
        seconds,
        gain,
        independent,
        options.isolation is not None,
        Breaker(options.breaker),
        standby,
        options.memory.footprint.of(chosen.blob.size) + (0 if standby is None else standby.bytes),
    )


def _measured(
    bundle: Bundle, options: RuntimeOptions, among: Sequence[ArtifactSpec], choices: Choices
) -> list[Measurement]:
    """What was measured of the artifacts whose blobs are here, now or before; the best first."""
    here = [one for one in among if bundle.blobs.has(one.blob.descriptor().digest)]
    tried = variants(here or among[:1], options.engine, available_providers())
    if len(tried) == 1:
        return [Measurement(tried[0])]
    key = key_of(str(bundle.manifest.digest), tried)
    if known := choices.get(key):
        return known
    row = _rows(bundle, bundle.golden(), 1)
    loaded: list[Prepared] = []

    def timed(one: Candidate) -> Callable[[], object]:
        how = replace(options, engine=one.engine, cache=None)
        loaded.append(_load(bundle, how, bundle.card.artifact(one.artifact), None))
        return partial(loaded[-1].session.predict, row)

    found = measure(tried, timed, lambda: loaded.pop().close(), choices.limits)
    choices.put(key, found)
    return found


def _open(chosen: ArtifactSpec, bundle: Bundle, options: RuntimeOptions) -> Engine:
    path = bundle.path(chosen.blob)
    if options.isolation is None:
        return open_engine(chosen.format, path, options.engine)
    from skerry.runtime.engine.isolated import IsolatedEngine

    blob = chosen.blob.descriptor()
    return IsolatedEngine(chosen.format, path, options.engine, options.isolation, blob)


def _rows(bundle: Bundle, arrays: Arrays, count: int | None) -> Arrays:
    """The first `count` golden rows, or all where None, by input name."""
    return {spec.name: arrays[f"input/{spec.name}"][:count] for spec in bundle.card.inputs}


def _warm_up(session: Session, inputs: Arrays, runs: int) -> float:
    """Call again and again. Returns the quickest call, in seconds."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        session.predict(inputs)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
