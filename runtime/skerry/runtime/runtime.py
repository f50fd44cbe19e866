"""The runtime: brings a bundle into service step by step, swaps it in, and answers predictions.

A release goes digests → choice of artifact → engine → golden samples → warm-up before it serves
anything; a step that fails leaves what serves untouched. The swap is one assignment: a call that
has begun ends on the release it began with, which is closed when its last call has left.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from numpy.typing import NDArray

from skerry.devices.errors import InputError, SignatureMismatch, SkerryError, UnavailableError
from skerry.runtime.bundle.card import Format
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.choose import choose
from skerry.runtime.engine.base import Arrays, EngineOptions
from skerry.runtime.engine.select import available_formats, open_engine
from skerry.runtime.golden import check_golden
from skerry.runtime.observe import Observation, Observer
from skerry.runtime.prepared import Info, Prepared
from skerry.runtime.session import Session, SessionLimits

__all__ = ["Answer", "Runtime", "RuntimeOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """How a device runs its models.

    Attributes:
        artifact: the artifact to run; None to choose by `formats`.
        formats: what may run, preferred first (a profile's `formats`); None for whatever engine is
            installed.
        warm_up_runs: single-row calls before a release may serve, at least 1.
    """

    artifact: str | None = None
    formats: tuple[Format, ...] | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    session: SessionLimits = field(default_factory=SessionLimits)
    warm_up_runs: int = 3


class Answer(NamedTuple):
    """Outputs, and the release that gave them."""

    outputs: Arrays
    release: Prepared


class Runtime:
    """Serves one model: at any time one active release, and the previous one to go back to.

    Thread-safe. Nothing here needs the network.

    Args:
        observer: told of every call; must be quick.
    """

    def __init__(
        self, options: RuntimeOptions | None = None, observer: Observer | None = None
    ) -> None:
        self._options = options or RuntimeOptions()
        self._observer = observer
        self._swap = Lock()
        self._active: Prepared | None = None
        self._previous: Prepared | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        options: RuntimeOptions | None = None,
        observer: Observer | None = None,
    ) -> Runtime:
        """A runtime with the bundle in the folder `path` active.

        Raises:
            SkerryError: as `Bundle.open` and `prepare`.
        """
        runtime = cls(options, observer)
        runtime.activate(runtime.prepare(Bundle.open(path)))
        return runtime

    @property
    def active(self) -> Prepared | None:
        """The release that serves."""
        return self._active

    @property
    def previous(self) -> Prepared | None:
        """The release that served before, kept ready until `forget_previous` or the next swap."""
        return self._previous

    def prepare(self, bundle: Bundle, artifact: str | None = None) -> Prepared:
        """Bring a release to where it could serve. What serves meanwhile is not touched.

        Args:
            artifact: the one to run; None for the options' choice.

        Raises:
            TrustError: a blob is not what its digest says.
            BundleError: the bundle or the artifact is malformed, or a blob is missing.
            UnsupportedError: nothing here runs it.
            MissingExtraError: the engine's library is not installed.
            GoldenError: the artifact does not reproduce its golden outputs here.
        """
        options = self._options
        formats = available_formats() if options.formats is None else options.formats
        chosen = choose(bundle.card, formats, artifact=artifact or options.artifact)
        bundle.verify(chosen.name)
        engine = open_engine(chosen.format, bundle.path(chosen.blob), options.engine)
        try:
            session = Session(bundle.card, chosen, engine, options.session)
            arrays = bundle.golden()
            golden = check_golden(bundle.card, chosen, engine, arrays)
            row = {spec.name: arrays[f"input/{spec.name}"][:1] for spec in bundle.card.inputs}
            seconds = _warm_up(session, row, max(1, options.warm_up_runs))
        except BaseException:
            engine.close()
            raise
        return Prepared(bundle, chosen, engine, session, golden, seconds)

    def activate(self, prepared: Prepared) -> None:
        """Let `prepared` answer from now on. The release that served becomes `previous`; the one
        that was `previous` is closed when its calls have ended. Going back is activating it."""
        with self._swap:
            if prepared is self._active:
                return
            stale = None if prepared is self._previous else self._previous
            self._previous, self._active = self._active, prepared
        if stale is not None:
            stale.close()

    def forget_previous(self) -> None:
        """Close the previous release."""
        with self._swap:
            stale, self._previous = self._previous, None
        if stale is not None:
            stale.close()

    def close(self) -> None:
        """Answer nothing more; give everything back when the calls under way have ended."""
        with self._swap:
            ending = [self._active, self._previous]
            self._active = self._previous = None
        for prepared in ending:
            if prepared is not None:
                prepared.close()

    def info(self) -> Info | None:
        """What serves, or None."""
        active = self._active
        return None if active is None else active.info

    def predict(
        self, inputs: Arrays, outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Answer one call.

        Args:
            inputs: an array for each input of the signature, one length on axis 0.
            outputs: the names wanted; all where None.

        Raises:
            SignatureMismatch: the call does not fit the signature; names the tensor.
            UnavailableError: no release is active, or the engine failed.
        """
        return dict(self.answer(inputs, outputs).outputs)

    def answer(
        self, inputs: Arrays, outputs: Sequence[str] | None = None, *, version: str | None = None
    ) -> Answer:
        """As `predict`, and say which release answered.

        Args:
            version: the version that must answer, active or previous; None for the active one.

        Raises:
            InputError: no release of that version is here.
        """
        began = time.perf_counter()
        release = self._enter(version)
        try:
            found = release.session.predict(inputs, outputs)
        except SkerryError as error:
            if self._observer is not None:
                self._tell(release, began, inputs, {}, _kind(error))
            raise
        finally:
            release.leave()
        if self._observer is not None:
            self._tell(release, began, inputs, found, None)
        return Answer(found, release)

    def _enter(self, version: str | None) -> Prepared:
        while True:
            release = self._active if version is None else self._of_version(version)
            if release is None:
                raise UnavailableError("no model is active", remedy="activate a bundle first")
            if release.enter():
                return release
            if release in (self._active, self._previous):
                raise UnavailableError("the release is closed", where=release.manifest)

    def _of_version(self, version: str) -> Prepared:
        for release in (self._active, self._previous):
            if release is not None and release.card.version == version:
                return release
        raise InputError(f"no version {version[:80]!r} is loaded", where="version")

    def _tell(
        self, release: Prepared, began: float, inputs: Arrays, found: Arrays, error: str | None
    ) -> None:
        assert self._observer is not None
        rows = 0 if error else len(next(iter(found.values())))
        self._observer.observed(
            Observation(
                release.manifest,
                release.artifact.name,
                time.perf_counter() - began,
                rows,
                {} if error else inputs,
                found,
                error,
            )
        )


def _warm_up(session: Session, row: Arrays, runs: int) -> float:
    """Call with one row. Returns the quickest call, in seconds."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        session.predict(row)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _kind(error: SkerryError) -> str:
    return "signature" if isinstance(error, SignatureMismatch) else "engine"
