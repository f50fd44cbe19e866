"""Bringing a bundle to where it could serve: a step that fails leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skerry.runtime.batching import rows_of
from skerry.runtime.breaker import Breaker, BreakerLimits
from skerry.runtime.bundle.card import ArtifactSpec, Format
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.choose import candidates, choose
from skerry.runtime.engine.base import Arrays, Engine, EngineOptions
from skerry.runtime.engine.caching import CacheLimits, CachingEngine
from skerry.runtime.engine.select import available_formats, open_engine
from skerry.runtime.golden import check_golden
from skerry.runtime.prepared import Prepared
from skerry.runtime.room import SwapLimits
from skerry.runtime.session import Session, SessionLimits

if TYPE_CHECKING:
    from skerry.runtime.engine.isolated import IsolationLimits

__all__ = ["RuntimeOptions", "chosen_artifact", "needed_bytes", "prepare"]

_BATCH_ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How a device runs its models.

    Attributes:
        artifact: the artifact to run; None to choose by `formats`.
        formats: what may run, preferred first (a profile's `formats`); None for whatever engine is
            installed.
        measure: where artifacts of one precision are here in several formats, run the quickest.
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
    measure: bool = False
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
    most = max(one.blob.size for one in (among if options.measure else among[:1]))
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
    if options.measure and wanted is None:
        chosen = _quickest(bundle, options, candidates(bundle.card, formats))
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
        gain = rows_of(batch) * seconds / _warm_up(session, batch, 1)
        if options.cache is not None:
            engine = CachingEngine(engine, options.cache)
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
        options.isolation is not None,
        Breaker(options.breaker),
        standby,
        options.memory.footprint.of(chosen.blob.size) + (0 if standby is None else standby.bytes),
    )


def _quickest(
    bundle: Bundle, options: RuntimeOptions, among: Sequence[ArtifactSpec]
) -> ArtifactSpec:
    """The artifact whose single row is answered soonest, of those whose blobs are here."""
    here = [one for one in among if bundle.blobs.has(one.blob.descriptor().digest)]
    if len(here) < 2:
        return among[0]
    seconds = []
    for one in here:
        prepared = _load(bundle, options, one, None)
        seconds.append(prepared.row_seconds)
        prepared.close()
    return here[seconds.index(min(seconds))]


def _open(chosen: ArtifactSpec, bundle: Bundle, options: RuntimeOptions) -> Engine:
    path = bundle.path(chosen.blob)
    if options.isolation is None:
        return open_engine(chosen.format, path, options.engine)
    from skerry.runtime.engine.isolated import IsolatedEngine

    return IsolatedEngine(chosen.format, path, options.engine, options.isolation)


def _rows(bundle: Bundle, arrays: Arrays, count: int) -> Arrays:
    """The first `count` golden rows, by input name."""
    return {spec.name: arrays[f"input/{spec.name}"][:count] for spec in bundle.card.inputs}


def _warm_up(session: Session, inputs: Arrays, runs: int) -> float:
    """Call again and again. Returns the quickest call, in seconds."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        session.predict(inputs)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
