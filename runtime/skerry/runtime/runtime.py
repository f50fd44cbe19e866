"""The runtime: brings a bundle into service step by step, swaps it in, and answers predictions.

A release goes digests → choice of artifact → engine → golden samples → warm-up before it serves
anything; a step that fails leaves what serves untouched. The swap is one assignment: a call that
has begun ends on the release it began with, which is closed when its last call has left.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from numpy.typing import NDArray

from skerry.devices.errors import InputError, SkerryError, UnavailableError
from skerry.runtime.batching import join, repeated, rows_of, split
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.engine.base import Arrays
from skerry.runtime.observe import Observation, Observer
from skerry.runtime.prepare import RuntimeOptions, prepare
from skerry.runtime.prepared import Info, Prepared

__all__ = ["Answer", "Runtime"]


class Answer(NamedTuple):
    """Outputs, the release that gave them, and what stood in if the one asked could not:
    `standby`, `previous` or `default`."""

    outputs: Arrays
    release: Prepared
    fallback: str | None = None


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
        return prepare(bundle, self._options, artifact)

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

        Where the active release cannot answer, and no version is asked for, its standby does, or
        the previous release if it has the same signature, or the declared default.

        Raises:
            SignatureMismatch: the call does not fit the signature; names the tensor.
            UnavailableError: no release is active, or none could answer.
            InputError: no release of that version is here.
        """
        return self._answer(inputs, outputs, version, self._observer)

    def answer_all(
        self,
        calls: Sequence[Arrays],
        outputs: Sequence[str] | None = None,
        *,
        version: str | None = None,
    ) -> list[Answer | SkerryError]:
        """As `answer` for several callers: in one run of the engine where their inputs go
        together, else one by one. Each gets an answer or an error of its own."""
        joined = join(calls) if len(calls) > 1 else None
        if joined is not None:
            began = time.perf_counter()
            try:
                answer = self._answer(joined, outputs, version, None)
                parts = split(answer.outputs, [rows_of(inputs) for inputs in calls])
            except (SkerryError, ValueError):
                pass  # each alone will tell whose fault it is
            else:
                if self._observer is not None:
                    for inputs, part in zip(calls, parts, strict=True):
                        _tell(self._observer, answer.release, began, inputs, part, None)
                return [answer._replace(outputs=part) for part in parts]
        return [self._alone(inputs, outputs, version) for inputs in calls]

    def _alone(
        self, inputs: Arrays, outputs: Sequence[str] | None, version: str | None
    ) -> Answer | SkerryError:
        try:
            return self._answer(inputs, outputs, version, self._observer)
        except SkerryError as error:
            return error

    def _answer(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None,
        version: str | None,
        observer: Observer | None,
    ) -> Answer:
        began = time.perf_counter()
        release = self._enter(version)
        try:
            found = self._ask(release, inputs, outputs, began)
        except UnavailableError as error:
            if observer is not None:
                _tell(observer, release, began, inputs, {}, "engine")
            if version is not None:
                raise
            return self._fall_back(release, inputs, outputs, error, observer)
        except SkerryError:
            if observer is not None:
                _tell(observer, release, began, inputs, {}, "signature")
            raise
        finally:
            release.leave()
        if observer is not None:
            _tell(observer, release, began, inputs, found, None)
        return Answer(found, release)

    def _ask(
        self, release: Prepared, inputs: Arrays, outputs: Sequence[str] | None, now: float
    ) -> Arrays:
        """Ask one release, unless its breaker is open."""
        breaker = release.breaker
        if not breaker.allows(now):
            raise UnavailableError(
                f"not asked, after {breaker.failures} failures in a row",
                where=release.info.artifact,
            )
        try:
            found = release.session.predict(inputs, outputs)
        except UnavailableError:
            breaker.failed(time.perf_counter())
            raise
        except BaseException:
            breaker.abandoned()
            raise
        if breaker.failures:
            breaker.succeeded()
        return found

    def _fall_back(
        self,
        failed: Prepared,
        inputs: Arrays,
        outputs: Sequence[str] | None,
        error: UnavailableError,
        observer: Observer | None,
    ) -> Answer:
        previous = self._previous
        if previous is failed or (previous is not None and not previous.same_signature(failed)):
            previous = None
        for kind, other in (("standby", failed.standby), ("previous", previous)):
            if other is None or not other.enter():
                continue
            began = time.perf_counter()
            try:
                found = self._ask(other, inputs, outputs, began)
            except UnavailableError:
                continue
            finally:
                other.leave()
            if observer is not None:
                _tell(observer, other, began, inputs, found, None)
            return Answer(found, other, kind)
        if self._options.default is None:
            raise error
        return Answer(repeated(self._options.default, inputs, outputs), failed, "default")

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
    observer: Observer,
    release: Prepared,
    began: float,
    inputs: Arrays,
    found: Arrays,
    error: str | None,
) -> None:
    rows = 0 if error else len(next(iter(found.values())))
    observer.observed(
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
