"""Where an inference runs: on the event loop where it is quick, else on one thread a core.

Threads help because the engines let go of the interpreter lock. What waits for one is bounded, and
answered at its deadline whether or not the engine has. A thread that becomes free takes all that
wait and go together as one batch, where the model gains by it and other threads have their share:
nothing waits for company.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from skerry.devices.errors import CancelledError, QuotaError, SkerryError, ThrottledError
from skerry.runtime.batching import rows_of
from skerry.runtime.models import Models
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.admission import TokenBucket
from skerry.runtime.serve.calls import Call, Outcome
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.metrics import Metrics
from skerry.runtime.serve.placement import batch_rows, runs_inline, share

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)
_Made = TypeVar("_Made")


class Dispatcher:
    """Answers the calls of every protocol. Lives on one event loop."""

    def __init__(self, models: Models, limits: ServeLimits, metrics: Metrics) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(limits.rate, limits.burst) if limits.rate > 0 else None
        self._threads = limits.threads or len(os.sched_getaffinity(0))
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._waking = False
        for number in range(self._threads):
            Thread(target=self._serve_jobs, name=f"skerry-infer-{number}", daemon=True).start()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="skerry-change")
        self._waiting: deque[_Job] = deque()
        self._under_way = 0

    def infer(self, call: Call, done: Callable[[Outcome], None]) -> Callable[[], None] | None:
        """Answer `call`: `done` is told once, on the loop, at once or when a thread has.

        Returns:
            What gives the call up, where it is not answered yet: `done` is then not told.
        """
        began = time.monotonic()
        outcome: Outcome
        try:
            if self._bucket is not None:
                self._admit(self._bucket, began)
            runtime = self._models.loaded(call.model, call.version)
            if runtime is None or self._takes_long(runtime, call):
                return self._offload(call, began, done)
            until = None if call.timeout_s is None else began + call.timeout_s
            outcome = self._models.answer(
                call.model, call.inputs, call.outputs, call.version, until
            )
        except SkerryError as error:
            outcome = error
        except Exception:  # noqa: BLE001 - logged, and told as a bug
            outcome = _bug()
        self._tell(began, done, outcome)
        return None

    def run(self, make: Callable[[], _Made], done: Callable[[_Made | SkerryError], None]) -> None:
        """Do in a thread what takes time; `done` is told on the loop."""

        def work() -> None:
            found: _Made | SkerryError
            try:
                found = make()
            except SkerryError as error:
                found = error
            except Exception:  # noqa: BLE001 - logged, and told as a bug
                found = _bug()
            self._loop.call_soon_threadsafe(done, found)

        self._pool.submit(work)

    @property
    def waiting(self) -> int:
        """Inferences that wait for a thread."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Inferences that wait for a thread or are being run by one."""
        return self._under_way

    def close(self) -> None:
        """Wait for no thread; what they still do is not answered."""
        for _ in range(self._threads):
            self._wake.put(False)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _takes_long(self, runtime: Runtime, call: Call) -> bool:
        """Whether the model may hold up whoever calls it for long."""
        active = runtime.active
        if active is None:
            return False
        return runtime.state == "swapping" or not runs_inline(
            active, self._limits, rows_of(call.inputs)
        )

    def _admit(self, bucket: TokenBucket, now: float) -> None:
        if wait := bucket.take(now):
            raise ThrottledError(
                f"more than {self._limits.rate:g} inferences a second", retry_s=wait
            )

    def _offload(
        self, call: Call, began: float, done: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        limits = self._limits
        if self._under_way >= self._threads + limits.waiting:
            raise QuotaError("too many inferences are waiting")
        self._under_way += 1
        seconds = min(call.timeout_s or limits.deadline_s, limits.deadline_s)
        job = _Job(call, began, began + seconds, done)
        job.timer = self._loop.call_at(job.expires, self._late, job)
        self._waiting.append(job)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake_threads)
        return partial(self._give_up, job)

    def _wake_threads(self) -> None:
        """When the loop has read all that had come: what came together may go together."""
        self._waking = False
        for _ in range(min(self._threads, len(self._waiting)) - self._wake.qsize()):
            self._wake.put(True)

    def _serve_jobs(self) -> None:
        """What each thread does until the end: run what waits."""
        while self._wake.get():
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                while jobs := self._take():
                    self._work(jobs)

    def _work(self, jobs: list[_Job]) -> None:
        """In a thread: run `jobs`, which go together."""
        found: Sequence[Outcome]
        first = jobs[0].call
        try:
            found = self._models.answer_all(
                first.model,
                [job.call.inputs for job in jobs],
                first.outputs,
                first.version,
                max(job.expires for job in jobs),
            )
        except SkerryError as error:
            found = [error] * len(jobs)
        except Exception:  # noqa: BLE001 - logged, and told as a bug
            found = [_bug()] * len(jobs)
        self._loop.call_soon_threadsafe(self._ended, jobs, found)

    def _take(self) -> list[_Job]:
        """The oldest job that waits, and those behind it that may share its batch."""
        jobs: list[_Job] = []
        rows, most, part = 0, 1, share(self._under_way, self._threads)
        with suppress(IndexError):  # another thread was quicker
            while not jobs or (rows < most and len(jobs) < part):
                job = self._waiting.popleft()
                if not jobs:
                    most = self._most_rows(job.call)
                more = rows_of(job.call.inputs)
                if jobs and not (rows + more <= most and job.goes_with(jobs[0])):
                    self._waiting.appendleft(job)
                    break
                jobs.append(job)
                rows += more
        return jobs

    def _most_rows(self, call: Call) -> int:
        try:
            runtime = self._models.loaded(call.model, call.version)
        except SkerryError:
            return 1
        active = None if runtime is None else runtime.active
        return 1 if active is None else batch_rows(active, self._limits)

    def _ended(self, jobs: list[_Job], found: Sequence[Outcome]) -> None:
        """Back on the loop: answer, unless the deadline has."""
        for job, outcome in zip(jobs, found, strict=True):
            self._under_way -= 1
            if job.timer is None:
                continue
            job.timer.cancel()
            job.timer = None
            self._tell(job.began, job.done, outcome)

    def _late(self, job: _Job) -> None:
        """On the loop: the deadline has come. What still waits is not run any more."""
        self._give_up(job)
        late = CancelledError(f"not answered within {job.expires - job.began:.3f} s")
        self._tell(job.began, job.done, late)

    def _give_up(self, job: _Job) -> None:
        """On the loop: nobody wants the answer any more. What still waits is not run."""
        if job.timer is None:
            return
        job.timer.cancel()
        job.timer = None
        with suppress(ValueError):  # it is being run
            self._waiting.remove(job)
            self._under_way -= 1

    def _tell(self, began: float, done: Callable[[Outcome], None], outcome: Outcome) -> None:
        """Answer, and count it while the client already has its answer."""
        seconds = time.monotonic() - began
        done(outcome)
        self._metrics.inferred(seconds)


class _Job:
    """An inference handed to a thread. `timer` is None once it was given up."""

    __slots__ = ("began", "call", "done", "expires", "timer")

    def __init__(
        self, call: Call, began: float, expires: float, done: Callable[[Outcome], None]
    ) -> None:
        self.call, self.began, self.expires, self.done = call, began, expires, done
        self.timer: asyncio.TimerHandle | None = None

    def goes_with(self, other: _Job) -> bool:
        """Whether both ask for the same outputs of the same model and version."""
        mine, its = self.call, other.call
        return (mine.model, mine.version, mine.outputs) == (its.model, its.version, its.outputs)


def _bug() -> SkerryError:
    """Log the exception at hand. Returns what a caller is told of it."""
    _log.exception("a request ended in a bug")
    return SkerryError("a bug in the server; its log says more")
