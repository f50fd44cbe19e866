"""Asynchronous calls: bounded, batched, each by its deadline, and given up when told to."""

import asyncio
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.bundles import linear, make_bundle
from skerry.devices.errors import CancelledError, QuotaError, SignatureMismatch, UnavailableError
from skerry.runtime.crew import Crew, CrewLimits
from skerry.runtime.runtime import Answer, Runtime

X = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


class Held:
    """A runtime whose engine waits until it is let go, and counts its runs by rows."""

    def __init__(self, tmp_path: Path, gain: float = 1.0) -> None:
        self.runtime = Runtime.open(make_bundle(tmp_path / "b"))
        active = self.runtime.active
        assert active is not None
        active.batch_gain = gain
        self.go, self.entered, self.rows = threading.Event(), threading.Semaphore(0), list[int]()
        answer = active.session.predict

        def predict(inputs: Any, *words: Any) -> Any:
            self.entered.release()
            self.rows.append(len(inputs["x"]))
            assert self.go.wait(20)
            return answer(inputs, *words)

        active.session.predict = predict  # type: ignore[method-assign]


def _right(future: Future[Answer], x: np.ndarray) -> None:
    np.testing.assert_allclose(future.result(20).outputs["y"], linear(x), atol=1e-5)


def test_many_at_once_each_get_their_own(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))

    async def call(seed: int) -> None:
        x = np.random.default_rng(seed).normal(size=(1 + seed % 3, 4)).astype(np.float32)
        found = await runtime.predict_async({"x": x}, ["y"])
        np.testing.assert_allclose(found["y"], linear(x), atol=1e-5)

    async def every() -> None:
        await asyncio.gather(*(call(seed) for seed in range(200)))

    asyncio.run(every())
    asyncio.run(every())
    runtime.close()
    with pytest.raises(UnavailableError):
        asyncio.run(call(0))


def test_a_call_that_does_not_fit_spoils_no_other(tmp_path: Path) -> None:
    held = Held(tmp_path, gain=9.0)
    with Crew(held.runtime, CrewLimits(threads=1)) as crew:
        first = crew.submit({"x": X})
        assert held.entered.acquire(timeout=20)
        good, bad = crew.submit({"x": X + 1}), crew.submit({"x": X.astype(np.float64)})
        held.go.set()
        _right(first, X)
        _right(good, X + 1)
        with pytest.raises(SignatureMismatch):
            bad.result(20)


@pytest.mark.parametrize("gain", [1.0, 9.0])
def test_what_are_no_arrays_is_told_its_sender_alone(tmp_path: Path, gain: float) -> None:
    held = Held(tmp_path, gain=gain)
    with Crew(held.runtime, CrewLimits(threads=1)) as crew:
        first = crew.submit({"x": X})
        assert held.entered.acquire(timeout=20)
        good, more = crew.submit({"x": X + 1}), crew.submit({"x": X + 2})
        lists: Any = {"x": [[1.0, 2.0, 3.0, 4.0]]}
        bad, last = crew.submit(lists), crew.submit({"x": X + 3})
        held.go.set()
        for n, future in enumerate((first, good, more, last)):
            _right(future, X + n)
        with pytest.raises(SignatureMismatch, match="list"):
            bad.result(20)


def test_a_bug_is_told_its_caller_alone(tmp_path: Path) -> None:
    held = Held(tmp_path, gain=9.0)
    assert held.runtime.active is not None
    answer = held.runtime.active.session.predict

    def predict(inputs: Any, *words: Any) -> Any:
        if (inputs["x"] == 7.0).all(axis=1).any():
            raise ZeroDivisionError
        return answer(inputs, *words)

    held.runtime.active.session.predict = predict  # type: ignore[method-assign]
    with Crew(held.runtime, CrewLimits(threads=1)) as crew:
        first = crew.submit({"x": X})
        assert held.entered.acquire(timeout=20)
        bad, good = crew.submit({"x": np.full_like(X, 7.0)}), crew.submit({"x": X + 1})
        held.go.set()
        _right(first, X)
        _right(good, X + 1)
        with pytest.raises(ZeroDivisionError):
            bad.result(20)


def test_what_is_past_its_deadline_is_not_run_beside_another(tmp_path: Path) -> None:
    held = Held(tmp_path, gain=9.0)
    with Crew(held.runtime, CrewLimits(threads=1)) as crew:
        first = crew.submit({"x": X})
        assert held.entered.acquire(timeout=20)
        late = crew.submit({"x": X}, until=time.monotonic())
        good = crew.submit({"x": X + 1})
        held.go.set()
        _right(first, X)
        _right(good, X + 1)
        with pytest.raises(CancelledError, match="deadline"):
            late.result(20)
    assert held.rows == [3, 3]


def test_what_waits_together_is_one_batch_where_that_gains(tmp_path: Path) -> None:
    held = Held(tmp_path, gain=9.0)
    with Crew(held.runtime, CrewLimits(threads=1, batch_rows=7)) as crew:
        futures = [crew.submit({"x": X})]
        assert held.entered.acquire(timeout=20)
        futures += [crew.submit({"x": X + n}) for n in range(1, 5)]
        held.go.set()
        for n, future in enumerate(futures):
            _right(future, X + n)
    assert held.rows == [3, 6, 6]


def test_too_many_are_refused_and_what_was_given_up_is_not_run(tmp_path: Path) -> None:
    held = Held(tmp_path)
    with Crew(held.runtime, CrewLimits(threads=1, waiting=2)) as crew:
        first = crew.submit({"x": X})
        assert held.entered.acquire(timeout=20)
        second, third = crew.submit({"x": X}), crew.submit({"x": X})
        with pytest.raises(QuotaError, match="2 calls wait"):
            crew.submit({"x": X})
        assert second.cancel()
        held.go.set()
        _right(first, X)
        _right(third, X)
    assert held.rows == [3, 3]


def test_a_coroutine_ends_at_its_deadline_though_the_engine_does_not(tmp_path: Path) -> None:
    held = Held(tmp_path)

    async def late() -> None:
        with pytest.raises(CancelledError, match="deadline"):
            await held.runtime.predict_async({"x": X}, until=time.monotonic() + 0.02)

    asyncio.run(late())
    held.go.set()
    held.runtime.close()


def test_a_cancelled_task_gives_up_its_call(tmp_path: Path) -> None:
    held = Held(tmp_path)

    async def give_up() -> None:
        with Crew(held.runtime, CrewLimits(threads=1)) as crew:
            running = asyncio.create_task(crew.predict({"x": X}))
            while not held.entered.acquire(blocking=False):
                await asyncio.sleep(0)
            waiting = asyncio.create_task(crew.predict({"x": X}))
            while not crew.waiting:
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            held.go.set()
            await running

    asyncio.run(give_up())
    assert held.rows == [3]


def test_closing_gives_up_what_waits(tmp_path: Path) -> None:
    held = Held(tmp_path)
    crew = Crew(held.runtime, CrewLimits(threads=1))
    first = crew.submit({"x": X})
    assert held.entered.acquire(timeout=20)
    second = crew.submit({"x": X})
    closing = threading.Thread(target=crew.close)
    closing.start()
    with pytest.raises(CancelledError, match="closed"):
        second.result(20)
    held.go.set()
    closing.join()
    _right(first, X)
    with pytest.raises(UnavailableError):
        crew.submit({"x": X})
