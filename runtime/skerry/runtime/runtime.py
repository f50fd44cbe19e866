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
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from skerry.devices.errors import SkerryError, UnavailableError
from skerry.runtime.batching import join, repeated, rows_of, split
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.chain import ask, is_late, kind_of, stand_ins, tell
from skerry.runtime.engine.base import Arrays
from skerry.runtime.observe import Observer
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.prepared import Info, Prepared
from skerry.runtime.serving import Serving, State

if TYPE_CHECKING:
    from skerry.runtime.crew import Crew

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
        self._serving = Serving(self._options)
        self._crew: Crew | None = None
        self._making, self._closed = Lock(), False

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
        """The release that serves; while the state is `swapping`, the one that did."""
        return self._serving.active

    @property
    def previous(self) -> Prepared | None:
        """The release that served before, kept ready until `forget_previous` or the next swap, or
        until its memory is needed."""
        return self._serving.previous

    @property
    def state(self) -> State:
        """`ready`, `empty`, or `swapping`: calls wait, because memory holds one release only."""
        return self._serving.state

    @property
    def waiting(self) -> int:
        """Calls that wait for the next release."""
        return self._serving.waiting

    def prepare(self, bundle: Bundle, artifact: str | None = None) -> Prepared:
        """Bring a release to where it could serve. What serves meanwhile is not touched.

        Where the options' memory budget does not hold both, the previous release is closed first.
        Where that is not enough the active one is too: calls wait, bounded in number and time,
        until the new one is activated; if it cannot be loaded, the old one is loaded again.

        Args:
            artifact: the one to run; None for the options' choice.

        Raises:
            TrustError: a blob is not what its digest says.
            BundleError: the bundle or the artifact is malformed, or a blob is missing.
            UnsupportedError: nothing here runs it.
            MissingExtraError: the engine's library is not installed.
            GoldenError: the artifact does not reproduce its golden outputs here.
            QuotaError: the memory budget does not hold it.
        """
        return self._serving.prepare(bundle, artifact)

    def activate(self, prepared: Prepared) -> None:
        """Let `prepared` answer from now on. The release that served becomes `previous`; the one
        that was `previous` is closed when its calls have ended. Going back is activating it.

        Raises:
            SkerryError: as `prepare`, where it is closed or closing and so is to be loaded again.
        """
        self._serving.activate(prepared)

    def forget_previous(self) -> None:
        """Close the previous release."""
        self._serving.forget_previous()

    def close(self) -> None:
        """Answer nothing more; give everything back when the calls under way have ended."""
        self._serving.close()
        with self._making:
            crew, self._crew, self._closed = self._crew, None, True
        if crew is not None:
            crew.close()

    def info(self) -> Info | None:
        """What serves, or None."""
        active = self._serving.active
        return None if active is None else active.info

    def predict(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        *,
        until: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Answer one call.

        Args:
            inputs: an array for each input of the signature, one length on axis 0.
            outputs: the names wanted; all where None.
            until: as for `answer`.

        Raises:
            SignatureMismatch: the call does not fit the signature; names the tensor.
            UnavailableError: no release is active, or the engine failed.
            CancelledError: the deadline has come.
        """
        return dict(self.answer(inputs, outputs, until=until).outputs)

    async def predict_async(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        *,
        until: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """As `predict`, in a thread of the runtime's own `Crew`: the event loop goes on, calls that
        wait together are answered as a batch where that gains, and each ends at its deadline.

        Raises:
            SkerryError: as `predict`.
            QuotaError: too many calls wait already.
            UnavailableError: the runtime is closed.
        """
        from skerry.runtime.crew import Crew  # it needs asyncio, which others do without

        with self._making:
            if self._closed:
                raise UnavailableError("the runtime is closed")
            crew = self._crew = self._crew or Crew(self)
        return await crew.predict(inputs, outputs, until=until)

    def answer(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        *,
        version: str | None = None,
        until: float | None = None,
    ) -> Answer:
        """As `predict`, and say which release answered.

        Args:
            version: the version that must answer, active or previous; None for the active one.
            until: steady time (`time.monotonic`) at which the caller has no use for an answer. A
                call that waits ends then, and so does one in ONNX Runtime or an isolated engine.

        Where the active release cannot answer, and no version is asked for, its standby does, or
        the previous release if it has the same signature, or the declared default.

        Raises:
            SignatureMismatch: the call does not fit the signature; names the tensor.
            UnavailableError: no release is active, or none could answer.
            CancelledError: the deadline has come.
            QuotaError: too many calls wait for the next release.
            InputError: no release of that version is here.
        """
        return self._answer(inputs, outputs, version, until, self._observer)

    def answer_all(
        self,
        calls: Sequence[Arrays],
        outputs: Sequence[str] | None = None,
        *,
        version: str | None = None,
        until: float | None = None,
    ) -> list[Answer | SkerryError]:
        """As `answer` for several callers: in one run of the engine where their inputs go
        together and the model answers each row by itself, else one by one. Each gets an answer or
        an error of its own."""
        active = self._serving.active
        together = len(calls) > 1 and active is not None and active.independent
        joined = join(calls) if together else None
        if joined is not None:
            began = time.perf_counter()
            try:
                answer = self._answer(joined, outputs, version, until, None)
                parts = split(answer.outputs, [rows_of(inputs) for inputs in calls])
            except (SkerryError, ValueError):
                parts = []  # each alone will tell whose fault it is
            if parts and answer.release.independent:  # another release may have answered
                for inputs, part in zip(calls, parts, strict=True):
                    tell(self._observer, answer.release, began, inputs, part)
                return [answer._replace(outputs=part) for part in parts]
        return [self._alone(inputs, outputs, version, until) for inputs in calls]

    def _alone(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None,
        version: str | None,
        until: float | None,
    ) -> Answer | SkerryError:
        try:
            return self._answer(inputs, outputs, version, until, self._observer)
        except SkerryError as error:
            return error

    def _answer(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None,
        version: str | None,
        until: float | None,
        observer: Observer | None,
    ) -> Answer:
        began = time.perf_counter()
        try:
            release = self._serving.enter(version, until)
        except UnavailableError as error:
            return self._not_entered(inputs, outputs, version, until, observer, began, error)
        try:
            found = ask(release, inputs, outputs, began, until)
        except SkerryError as error:
            tell(observer, release, began, inputs, {}, kind_of(error, until))
            if version is not None or not isinstance(error, UnavailableError):
                raise
            return self._fall_back(release, inputs, outputs, until, observer, error)
        finally:
            release.leave()
        if observer is not None:
            tell(observer, release, began, inputs, found)
        return Answer(found, release)

    def _not_entered(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None,
        version: str | None,
        until: float | None,
        observer: Observer | None,
        began: float,
        error: UnavailableError,
    ) -> Answer:
        """What a call gets that no release let in: the declared default, or the error."""
        active = self._serving.active
        if active is None:
            raise error
        tell(observer, active, began, inputs, {}, kind_of(error, until))
        if version is not None or self._options.default is None:
            raise error
        return Answer(repeated(self._options.default, inputs, outputs), active, "default")

    def _fall_back(
        self,
        failed: Prepared,
        inputs: Arrays,
        outputs: Sequence[str] | None,
        until: float | None,
        observer: Observer | None,
        error: UnavailableError,
    ) -> Answer:
        for kind, other in stand_ins(failed, self._serving.previous):
            if is_late(error, until) or not other.enter():
                continue
            began = time.perf_counter()
            try:
                found = ask(other, inputs, outputs, began, until)
            except UnavailableError:
                continue
            finally:
                other.leave()
            tell(observer, other, began, inputs, found)
            return Answer(found, other, kind)
        if self._options.default is None:
            raise error
        return Answer(repeated(self._options.default, inputs, outputs), failed, "default")
