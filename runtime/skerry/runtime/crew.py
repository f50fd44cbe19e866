"""Threads that answer calls for whoever does not want to wait in line: one for each usable CPU.

What waits is bounded, and not begun after its deadline or once it was given up. A thread that
becomes free takes all that wait and go together as one batch, where the model gains by it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from skerry.devices.cpus import usable_cpus
from skerry.devices.errors import CancelledError, QuotaError, UnavailableError
from skerry.runtime.batching import rows_of
from skerry.runtime.engine.base import Arrays

if TYPE_CHECKING:
    from skerry.runtime.runtime import Answer, Runtime

__all__ = ["Crew", "CrewLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrewLimits:
    """What a crew takes on.

    Attributes:
        threads: that answer at once; 0 for as many as CPUs may be used at once.
        waiting: the most calls that wait for one; the next is refused.
        batch_rows: the longest batch that waiting calls are joined to; 1 to join none.
        batch_gain: they are joined where a batch is at least so many times faster than its rows,
            and the model answers each row by itself.
        deadline_s: of a call that names none.
    """

    threads: int = 0
    waiting: int = 256
    batch_rows: int = 32
    batch_gain: float = 1.25
    deadline_s: float = 30.0


class Crew:
    """Answers the calls of one runtime, which it does not own. Thread-safe, and for any loop."""

    def __init__(self, runtime: Runtime, limits: CrewLimits | None = None) -> None:
        self._runtime, self._limits = runtime, limits or CrewLimits()
        threads = self._limits.threads or usable_cpus().at_once
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="skerry-crew")
        self._waiting: deque[_Job] = deque()
        self._lock = Lock()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return len(self._waiting)

    def submit(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        *,
        version: str | None = None,
        until: float | None = None,
    ) -> Future[Answer]:
        """Have a call answered; arguments as for `Runtime.answer`. Cancelling the future gives up a
        call that still waits.

        Raises:
            QuotaError: too many wait already.
            UnavailableError: the crew is closed.
            CancelledError: told by the future: `until` came before a thread was free.
        """
        latest = time.monotonic() + self._limits.deadline_s if until is None else until
        job = _Job(inputs, None if outputs is None else tuple(outputs), version, latest)
        with self._lock:
            if self._closed:
                raise UnavailableError("the crew is closed")
            if len(self._waiting) >= self._limits.waiting:
                raise QuotaError(f"{len(self._waiting)} calls wait already for a thread")
            self._waiting.append(job)
            self._pool.submit(self._work)
        return job.future

    async def predict(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        *,
        until: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """As `Runtime.predict`, without holding up the event loop. It ends at its deadline, whether
        or not the engine has; a task that is cancelled gives up its call.

        Raises:
            SkerryError: as `Runtime.predict` and `submit`.
        """
        latest = time.monotonic() + self._limits.deadline_s if until is None else until
        future = self.submit(inputs, outputs, until=latest)
        try:
            async with asyncio.timeout(max(0.0, latest - time.monotonic())):
                answer = await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise CancelledError("not answered by the deadline", where="crew") from error
        return dict(answer.outputs)

    def close(self) -> None:
        """Give up what waits, and end when the calls under way have."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = tuple(self._waiting), deque()
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(CancelledError("the crew was closed"))
        self._pool.shutdown()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        """In a thread: answer what waits, unless another thread has taken it along."""
        jobs = self._in_time(self._take())
        if not jobs:
            return
        for job, one in zip(jobs, self._found(jobs), strict=True):
            if isinstance(one, BaseException):
                job.future.set_exception(one)
            else:
                job.future.set_result(one)

    def _found(self, jobs: Sequence[_Job]) -> Sequence[Answer | BaseException]:
        """What each of `jobs`, which go together, ends with. A bug is that one's alone."""
        first, until = jobs[0], max(job.until for job in jobs)
        try:
            return self._runtime.answer_all(
                [job.inputs for job in jobs], first.outputs, version=first.version, until=until
            )
        except BaseException as error:  # noqa: BLE001 - it is the caller's to see
            if len(jobs) == 1:
                return [error]
            return [one for job in jobs for one in self._found([job])]

    def _in_time(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Those that somebody still waits for; whose deadline has come is told so."""
        kept, now = [], time.monotonic()
        for job in jobs:
            if not job.future.set_running_or_notify_cancel():
                continue
            if job.until > now:
                kept.append(job)
            else:
                job.future.set_exception(CancelledError("not begun by the deadline", where="crew"))
        return kept

    def _take(self) -> list[_Job]:
        """The oldest job that waits, and those behind it that may share its batch."""
        jobs: list[_Job] = []
        rows, most = 0, self._most_rows()
        with self._lock, suppress(IndexError):  # another thread was quicker
            while not jobs or rows < most:
                job = self._waiting.popleft()
                if jobs and not (rows + job.rows <= most and job.goes_with(jobs[0])):
                    self._waiting.appendleft(job)
                    break
                jobs.append(job)
                rows += job.rows
        return jobs

    def _most_rows(self) -> int:
        active, limits = self._runtime.active, self._limits
        return 1 if active is None else active.joined_rows(limits.batch_rows, limits.batch_gain)


class _Job:
    """A call that waits for a thread."""

    __slots__ = ("future", "inputs", "outputs", "rows", "until", "version")

    def __init__(
        self,
        inputs: Arrays,
        outputs: tuple[str, ...] | None,
        version: str | None,
        until: float,
    ) -> None:
        self.inputs, self.outputs, self.version, self.until = inputs, outputs, version, until
        self.rows = rows_of(inputs)
        self.future: Future[Answer] = Future()

    def goes_with(self, other: _Job) -> bool:
        """Whether both ask for the same outputs of the same version."""
        return (self.outputs, self.version) == (other.outputs, other.version)
