"""A candidate release beside the active one: asked in silence, or answering a share of the callers.

Both are parts around a runtime, which knows nothing of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Lock, Thread

import msgspec

from skerry.devices.errors import InputError, SkerryError, UnavailableError
from skerry.runtime.chain import kind_of, tell
from skerry.runtime.engine.base import Arrays
from skerry.runtime.golden import compare
from skerry.runtime.observe import Observation, Observer
from skerry.runtime.prepared import Prepared
from skerry.runtime.runtime import Answer, Runtime

__all__ = ["Agreement", "Arm", "Canary", "Shadow", "ShadowLimits", "falls_in"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowLimits:
    """What a shadow may take.

    Attributes:
        waiting: calls kept for comparison; while so many wait, further ones are dropped.
        bytes: the largest call that is compared, its inputs and outputs together.
    """

    waiting: int = 64
    bytes: int = 4 << 20


class Agreement(msgspec.Struct, frozen=True):
    """How a candidate compares with what served.

    Attributes:
        compared: calls answered by both.
        rows: of those calls.
        argmax: the share of rows whose first output has the same argmax; 1.0 for scalars.
        largest: the largest difference of an output element.
        failed: calls the candidate could not answer.
        dropped: calls that were not compared: too many, or too large.
        seconds: the candidate's time per call, on average.
    """

    compared: int
    rows: int
    argmax: float
    largest: float
    failed: int
    dropped: int
    seconds: float


class Shadow:
    """`Observer` that asks a candidate what others have answered, off their path, and compares.

    Args:
        candidate: prepared, and not closed before the shadow is.
    """

    def __init__(self, candidate: Prepared, limits: ShadowLimits | None = None) -> None:
        self._candidate = candidate
        self._limits = limits or ShadowLimits()
        self._queue: Queue[tuple[Arrays, Arrays] | None] = Queue(self._limits.waiting)
        self._lock, self._over = Lock(), Event()
        self._compared = self._rows = self._failed = self._dropped = 0
        self._agreed = self._largest = self._seconds = 0.0
        self._thread = Thread(target=self._work, name="skerry-shadow", daemon=True)
        self._thread.start()

    def observed(self, call: Observation) -> None:
        """Keep a copy of an answered call for comparison, if there is room for it."""
        if call.error is not None or call.manifest == self._candidate.manifest:
            return
        arrays = (*call.inputs.values(), *call.outputs.values())
        if sum(array.nbytes for array in arrays) > self._limits.bytes or self._queue.full():
            with self._lock:
                self._dropped += 1
            return
        try:
            self._queue.put_nowait((_copied(call.inputs), _copied(call.outputs)))
        except Full:
            with self._lock:
                self._dropped += 1

    def agreement(self) -> Agreement:
        """What was found so far."""
        with self._lock:
            return Agreement(
                self._compared,
                self._rows,
                self._agreed / self._rows if self._rows else 0.0,
                self._largest,
                self._failed,
                self._dropped,
                self._seconds / self._compared if self._compared else 0.0,
            )

    def settle(self) -> Agreement:
        """What is found when every call kept so far has been compared."""
        self._queue.join()
        return self.agreement()

    def close(self) -> None:
        """Compare nothing more."""
        self._over.set()
        with suppress(Full):  # then the thread is awake, and looks
            self._queue.put_nowait(None)
        self._thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            call = self._queue.get()
            if call is not None:
                self._compare(*call)
            self._queue.task_done()

    def _compare(self, inputs: Arrays, outputs: Arrays) -> None:
        began = time.perf_counter()
        try:
            found = self._candidate.predict(inputs, tuple(outputs))
        except (UnavailableError, InputError):
            with self._lock:
                self._failed += 1
            return
        seconds = time.perf_counter() - began
        differences = [compare(found[name], outputs[name]) for name in outputs]
        rows = len(next(iter(outputs.values())))
        with self._lock:
            self._compared += 1
            self._rows += rows
            self._agreed += differences[0].argmax * rows
            self._largest = max(self._largest, *(one.largest for one in differences))
            self._seconds += seconds


def falls_in(key: bytes, salt: bytes, share: float) -> bool:
    """Whether the caller `key` is among the `share` of callers (0 to 1) that `salt` draws.

    The same key always falls the same way, and who is in at a share stays in at a larger one.
    """
    drawn = int.from_bytes(hashlib.sha256(salt + b"\0" + key).digest()[:8], "big")
    return drawn < share * 2**64


class Arm(msgspec.Struct, frozen=True):
    """One side of an experiment: calls it answered, and seconds they took on average."""

    answered: int = 0
    seconds: float = 0.0

    def plus(self, seconds: float) -> Arm:
        """One more call answered, in `seconds`."""
        total = self.seconds * self.answered + seconds
        return Arm(self.answered + 1, total / (self.answered + 1))


class Canary:
    """Lets a candidate answer a share of the callers; the runtime answers all others.

    A small share is a canary, a half is an A/B test: who is answered by which is the same at every
    call, and what each side did is counted. Where the candidate cannot answer, the runtime does.

    Args:
        share: of callers, 0 to 1.
        observer: told of the candidate's calls, as the runtime's own is of the others.

    Attributes:
        active, candidate: what each side answered.
        failed: calls that the candidate could not answer.
    """

    def __init__(
        self,
        runtime: Runtime,
        candidate: Prepared,
        share: float,
        observer: Observer | None = None,
    ) -> None:
        if not 0.0 <= share <= 1.0:
            raise InputError(f"{share} is no share", where="share", remedy="give 0 to 1")
        self._runtime, self._release, self._share = runtime, candidate, share
        self._observer = observer
        self._salt = str(candidate.manifest).encode()
        self._lock = Lock()
        self.active, self.candidate = Arm(), Arm()
        self.failed = 0

    def answer(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        *,
        key: bytes,
        until: float | None = None,
    ) -> Answer:
        """As `Runtime.answer`, for the caller `key`.

        Raises:
            SignatureMismatch: the call does not fit the signature.
            UnavailableError: neither could answer.
        """
        began = time.perf_counter()
        if not falls_in(key, self._salt, self._share):
            answer = self._runtime.answer(inputs, outputs, until=until)
            with self._lock:
                self.active = self.active.plus(time.perf_counter() - began)
            return answer
        try:
            found = self._release.predict(inputs, outputs, until=until)
        except SkerryError as error:
            tell(self._observer, self._release, began, inputs, {}, kind_of(error, until))
            if not isinstance(error, UnavailableError):
                raise
            with self._lock:
                self.failed += 1
            return self._runtime.answer(inputs, outputs, until=until)._replace(fallback="active")
        tell(self._observer, self._release, began, inputs, found)
        with self._lock:
            self.candidate = self.candidate.plus(time.perf_counter() - began)
        return Answer(found, self._release)


def _copied(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}
