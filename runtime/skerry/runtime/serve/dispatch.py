"""Where an inference runs: on the event loop where it is quick, else on one thread a core.

Threads help because the engines let go of the interpreter lock. What waits for one is bounded, and
answered at its deadline whether or not the engine has. A thread that becomes free takes all that
wait and go together as one batch, where the model gains by it: nothing waits for company.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from skerry.devices.errors import SkerryError
from skerry.runtime.batching import rows_of
from skerry.runtime.models import Models
from skerry.runtime.runtime import Answer, Runtime
from skerry.runtime.serve.admission import TokenBucket
from skerry.runtime.serve.api import Api, Later, failure
from skerry.runtime.serve.http1 import Done, Reply, Request, error_reply
from skerry.runtime.serve.infer import Call, write_answer
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.metrics import Metrics

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)


class Dispatcher:
    """`Responder` over an API and a runtime. Lives on one event loop."""

    def __init__(self, api: Api, models: Models, limits: ServeLimits, metrics: Metrics) -> None:
        self._api, self._models = api, models
        self._limits, self._metrics = limits, metrics
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(limits.rate, limits.burst) if limits.rate > 0 else None
        self._threads = limits.threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="skerry-infer")
        self._waiting: deque[_Job] = deque()
        self._under_way = 0

    def respond(self, request: Request, done: Done) -> None:
        """Answer `request`: at once, or when a thread has."""
        began = self._loop.time()
        try:
            call = self._api.read(request)
            if isinstance(call, Reply):
                self._metrics.answered(call.status)
                done(call)
                return
            if isinstance(call, Later):
                self._pool.submit(self._make, call, done)
                return
            if self._refuse(began, done):
                return
            runtime = self._models.loaded(call.model)
            if runtime is None or self._takes_long(runtime):
                self._offload(call, began, done)
                return
            reply = write_answer(
                call, runtime.answer(call.inputs, call.outputs, version=call.version)
            )
        except SkerryError as error:
            reply = failure(error)
        except Exception:  # noqa: BLE001 - logged, and told as 500
            _log.exception("a request ended in a bug")
            reply = _bug()
        self._metrics.answered(reply.status, self._loop.time() - began)
        done(reply)

    @property
    def waiting(self) -> int:
        """Inferences that wait for a thread."""
        return len(self._waiting)

    def close(self) -> None:
        """Wait for no thread; what they still do is not answered."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _takes_long(self, runtime: Runtime) -> bool:
        """Whether the model may hold up whoever calls it for long."""
        active = runtime.active
        if active is None:
            return False
        return active.isolated or active.row_seconds > self._limits.inline_s

    def _refuse(self, now: float, done: Done) -> bool:
        """Whether the rate is exceeded; if so `done` has been told."""
        if self._bucket is None or not (wait := self._bucket.take(now)):
            return False
        after = (b"retry-after", str(math.ceil(wait)).encode())
        self._metrics.answered(429)
        done(error_reply(429, f"more than {self._limits.rate:g} inferences a second", after))
        return True

    def _offload(self, call: Call, began: float, done: Done) -> None:
        limits = self._limits
        if self._under_way >= self._threads + limits.waiting:
            self._metrics.answered(503)
            done(error_reply(503, "too many inferences are waiting", (b"retry-after", b"1")))
            return
        self._under_way += 1
        seconds = min(call.timeout_s or limits.deadline_s, limits.deadline_s)
        job = _Job(call, began, began + seconds, done)
        job.timer = self._loop.call_at(job.expires, self._late, job)
        self._waiting.append(job)
        self._pool.submit(self._work)

    def _work(self) -> None:
        """In a thread: run what waits, unless another thread has taken it along."""
        jobs = self._take()
        if not jobs:
            return
        found: Sequence[Answer | SkerryError | None]
        first = jobs[0].call
        try:
            found = self._models.answer_all(
                first.model, [job.call.inputs for job in jobs], first.outputs, first.version
            )
        except SkerryError as error:
            found = [error] * len(jobs)
        except Exception:  # noqa: BLE001 - logged, and told as 500
            _log.exception("an inference ended in a bug")
            found = [None] * len(jobs)
        self._loop.call_soon_threadsafe(self._ended, jobs, found)

    def _make(self, later: Later, done: Done) -> None:
        """In a thread: make the reply."""
        try:
            reply = later.make()
        except SkerryError as error:
            reply = failure(error)
        except Exception:  # noqa: BLE001 - logged, and told as 500
            _log.exception("a request ended in a bug")
            reply = _bug()
        self._metrics.answered(reply.status)
        self._loop.call_soon_threadsafe(done, reply)

    def _take(self) -> list[_Job]:
        """The oldest job that waits, and those behind it that may share its batch."""
        jobs: list[_Job] = []
        rows, most = 0, 1
        with suppress(IndexError):  # another thread was quicker
            while not jobs or rows < most:
                job = self._waiting.popleft()
                if not jobs:
                    most = self._most_rows(job.call.model)
                more = rows_of(job.call.inputs)
                if jobs and not (rows + more <= most and job.goes_with(jobs[0])):
                    self._waiting.appendleft(job)
                    break
                jobs.append(job)
                rows += more
        return jobs

    def _most_rows(self, model: str) -> int:
        runtime = self._models.loaded(model)
        active = None if runtime is None else runtime.active
        gains = active is not None and active.batch_gain >= self._limits.batch_gain
        return self._limits.batch_rows if gains else 1

    def _ended(self, jobs: list[_Job], found: Sequence[Answer | SkerryError | None]) -> None:
        """Back on the loop: answer, unless the deadline has."""
        for job, one in zip(jobs, found, strict=True):
            self._under_way -= 1
            if job.timer is None:
                continue
            job.timer.cancel()
            if isinstance(one, Answer):
                reply = write_answer(job.call, one)
            else:
                reply = _bug() if one is None else failure(one)
            self._metrics.answered(reply.status, self._loop.time() - job.began)
            job.done(reply)

    def _late(self, job: _Job) -> None:
        """On the loop: the deadline has come. What still waits is not run any more."""
        job.timer = None
        with suppress(ValueError):  # it is being run
            self._waiting.remove(job)
            self._under_way -= 1
        self._metrics.answered(504, self._loop.time() - job.began)
        job.done(error_reply(504, f"not answered within {job.expires - job.began:.3f} s"))


class _Job:
    """An inference handed to a thread. `timer` is None once the deadline has answered it."""

    __slots__ = ("began", "call", "done", "expires", "timer")

    def __init__(self, call: Call, began: float, expires: float, done: Done) -> None:
        self.call, self.began, self.expires, self.done = call, began, expires, done
        self.timer: asyncio.TimerHandle | None = None

    def goes_with(self, other: _Job) -> bool:
        """Whether both ask for the same outputs of the same model and version."""
        mine, its = self.call, other.call
        return (mine.model, mine.version, mine.outputs) == (its.model, its.version, its.outputs)


def _bug() -> Reply:
    return error_reply(500, "a bug in the server; its log says more")
