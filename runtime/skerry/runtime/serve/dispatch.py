"""Where an inference runs: on the event loop where it is quick, else on one thread a core.

Threads help because the engines let go of the interpreter lock. What waits for one is bounded, and
answered at its deadline whether or not the engine has.
"""

from __future__ import annotations

import asyncio
import math
import os
from concurrent.futures import ThreadPoolExecutor

from skerry.devices.errors import SkerryError
from skerry.runtime.runtime import Answer, Runtime
from skerry.runtime.serve.admission import TokenBucket
from skerry.runtime.serve.api import Api, failure
from skerry.runtime.serve.http1 import Done, Reply, Request, error_reply
from skerry.runtime.serve.infer import Call, write_answer
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.metrics import Metrics

__all__ = ["Dispatcher"]


class Dispatcher:
    """`Responder` over an API and a runtime. Lives on one event loop."""

    def __init__(self, api: Api, runtime: Runtime, limits: ServeLimits, metrics: Metrics) -> None:
        self._api, self._runtime = api, runtime
        self._limits, self._metrics = limits, metrics
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(limits.rate, limits.burst) if limits.rate > 0 else None
        self._threads = limits.threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="skerry-infer")
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
            if self._refuse(began, done):
                return
            active = self._runtime.active
            if active is not None and active.row_seconds > self._limits.inline_s:
                self._offload(call, began, done)
                return
            reply = write_answer(
                call, self._runtime.answer(call.inputs, call.outputs, version=call.version)
            )
        except SkerryError as error:
            reply = failure(error)
        self._metrics.answered(reply.status, self._loop.time() - began)
        done(reply)

    def close(self) -> None:
        """Wait for no thread; what they still do is not answered."""
        self._pool.shutdown(wait=False, cancel_futures=True)

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
        job = _Job(call, began + seconds, done)
        job.timer = self._loop.call_at(job.expires, self._late, job, began)
        self._pool.submit(self._work, job, began)

    def _work(self, job: _Job, began: float) -> None:
        """In a thread: run, unless nobody waits for it any more."""
        found: Answer | SkerryError | None = None
        if self._loop.time() < job.expires:
            call = job.call
            try:
                found = self._runtime.answer(call.inputs, call.outputs, version=call.version)
            except SkerryError as error:
                found = error
        self._loop.call_soon_threadsafe(self._ended, job, began, found)

    def _ended(self, job: _Job, began: float, found: Answer | SkerryError | None) -> None:
        """Back on the loop: answer, unless the deadline has."""
        self._under_way -= 1
        if job.timer is None or found is None:
            return
        job.timer.cancel()
        reply = failure(found) if isinstance(found, SkerryError) else write_answer(job.call, found)
        self._metrics.answered(reply.status, self._loop.time() - began)
        job.done(reply)

    def _late(self, job: _Job, began: float) -> None:
        job.timer = None
        self._metrics.answered(504, self._loop.time() - began)
        job.done(error_reply(504, f"not answered within {job.expires - began:.3f} s"))


class _Job:
    """An inference handed to a thread. `timer` is None once the deadline has answered it."""

    __slots__ = ("call", "done", "expires", "timer")

    def __init__(self, call: Call, expires: float, done: Done) -> None:
        self.call, self.expires, self.done = call, expires, done
        self.timer: asyncio.TimerHandle | None = None
