import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fakes.engine import FakeEngine
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.base import Arrays
from skerry.runtime.engine.caching import CacheLimits, CachingEngine
from skerry.runtime.engine.paying import Judge, pays

NEVER_JUDGED = CacheLimits(window_calls=1 << 30)


class Telling:
    """An engine whose output says exactly what it was asked, as bytes."""

    name = "telling 1"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self) -> None:
        self.runs = 0

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, Any]:
        self.runs += 1
        return {"said": np.frombuffer(self.says(inputs), np.uint8).copy()}

    @staticmethod
    def says(inputs: Arrays) -> bytes:
        parts = [
            f"{name}|{array.dtype.str}|{array.shape}|".encode() + array.tobytes()
            for name, array in sorted(inputs.items())
        ]
        return b"\0".join(parts)

    def close(self) -> None:
        pass


_DTYPES = st.sampled_from(
    [np.float32, np.float64, np.int32, np.uint32, np.uint8, np.int8, np.bool_]
)
_ARRAYS = _DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=9), fill=st.just(0))
)
_CALLS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "ab"]), _ARRAYS, min_size=1), max_size=12
)


@given(_CALLS, st.integers(2000, 20_000), st.randoms(use_true_random=False))
def test_no_answer_ever_crosses_inputs(calls: list[Any], limit: int, random: Any) -> None:
    engine = CachingEngine(Telling(), CacheLimits(bytes=limit, window_calls=1 << 30))
    for _ in range(3):
        random.shuffle(calls)
        for inputs in calls:
            answer = engine.run(inputs)["said"]
            assert answer.tobytes() == Telling.says(inputs)
            answer[:] = 0
        assert engine.stats.bytes <= limit


def test_a_repeated_call_is_not_computed_again_and_the_answer_is_the_callers_own() -> None:
    inner = FakeEngine()
    engine = CachingEngine(inner, NEVER_JUDGED)
    x = np.ones((1, 4), np.float32)
    first = engine.run({"x": x})["y"]
    first[:] = -1
    second = engine.run({"x": x})["y"]
    assert inner.runs == 1
    np.testing.assert_array_equal(second, [[4.0, 4.0, 4.0]])
    second[:] = -1
    np.testing.assert_array_equal(engine.run({"x": x})["y"], [[4.0, 4.0, 4.0]])
    assert engine.stats.hits == 2


def test_the_least_recently_used_goes_first() -> None:
    inner = FakeEngine()
    engine = CachingEngine(inner, CacheLimits(bytes=5000, window_calls=1 << 30))
    inputs = [{"x": np.full((1, 4), n, np.float32)} for n in range(12)]
    for one in inputs:
        engine.run(one)
        engine.run(inputs[0])
    assert engine.stats.bytes <= 5000
    runs = inner.runs
    engine.run(inputs[0])
    assert inner.runs == runs
    engine.run(inputs[1])
    assert inner.runs == runs + 1


def test_a_failure_is_not_remembered() -> None:
    inner = FakeEngine()
    engine = CachingEngine(inner, NEVER_JUDGED)

    def fail() -> None:
        raise RuntimeError

    inner.before = fail
    x = {"x": np.ones((1, 4), np.float32)}
    with pytest.raises(RuntimeError):
        engine.run(x)
    inner.before = lambda: None
    assert engine.run(x)["y"][0, 0] == 4.0


def test_where_nothing_repeats_it_rests_and_later_tries_again() -> None:
    inner = FakeEngine()
    engine = CachingEngine(inner, CacheLimits(window_calls=10, rest_calls=20))
    for n in range(10):
        engine.run({"x": np.full((1, 4), n, np.float32)})
    assert not engine.stats.in_use
    assert engine.stats.entries == 0
    same = {"x": np.ones((1, 4), np.float32)}
    for _ in range(20):
        engine.run(same)
    assert engine.stats.lookups == 10
    assert inner.runs == 30
    assert engine.stats.in_use
    engine.run(same)
    assert engine.stats.lookups == 11


@pytest.mark.parametrize(
    ("lookups", "hits", "lookup_s", "engine_s", "worth"),
    [
        (100, 0, 1e-6, 1e-3, False),
        (100, 1, 1e-6, 1e-3, True),
        (100, 95, 2e-6, 1e-6, False),
        (100, 95, 5e-5, 1.3e-3, True),
        (100, 4, 5e-5, 1.2e-3, False),
    ],
)
def test_what_pays(lookups: int, hits: int, lookup_s: float, engine_s: float, worth: bool) -> None:
    assert pays(lookups, hits, lookup_s, engine_s) is worth


def test_a_zipf_load_is_mostly_answered_from_memory() -> None:
    engine = CachingEngine(FakeEngine(), NEVER_JUDGED)
    draws = np.random.default_rng(0).zipf(1.5, 4000) % 200
    for draw in draws:
        engine.run({"x": np.full((1, 4), draw, np.float32)})
    stats = engine.stats
    assert stats.hits / stats.lookups >= 0.9


def test_threads_share_it() -> None:
    engine = CachingEngine(Telling(), CacheLimits(bytes=3000, window_calls=50, rest_calls=10))
    wrong: list[int] = []

    def call(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(300):
            inputs = {"x": random.integers(0, 5, (1, 2))}
            if engine.run(inputs)["said"].tobytes() != Telling.says(inputs):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert engine.stats.bytes <= 3000


def test_hits_alone_are_judged_by_what_the_engine_is_known_to_take() -> None:
    for engine_s, worth in ((1e-3, True), (1e-6, False)):
        judge = Judge(10, 5, engine_s)
        assert [judge.add(True, 1e-5) for _ in range(10)][-1] is not worth
        assert judge.in_use is worth


def test_a_call_that_waited_for_the_processor_is_no_verdict() -> None:
    judge = Judge(10, 5)
    assert not any(judge.add(n != 3, 1e-2 if n == 7 else 1e-6, 1e-4) for n in range(10))
