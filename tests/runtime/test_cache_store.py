"""Answers that outlive a restart: never another's, never damaged, within a quota."""

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.bundles import BIAS, linear, make_bundle
from fakes.engine import FakeEngine
from skerry.runtime.engine.cache_store import CacheStore, key_of
from skerry.runtime.engine.caching import CacheLimits, CachingEngine
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime

X = {"x": np.ones((1, 4), np.float32)}
ANSWER = {"y": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.array(["a", "bc"])}


def _limits(path: Path, **more: Any) -> CacheLimits:
    return CacheLimits(store=path, window_calls=1 << 30, **more)


def test_what_was_kept_is_found_after_a_restart(tmp_path: Path) -> None:
    for runs in (1, 0):
        inner = FakeEngine()
        engine = CachingEngine(inner, _limits(tmp_path / "c.db"), "sha256:a")
        for _ in range(3):
            assert engine.run(X)["y"][0, 0] == 4.0
        assert inner.runs == runs
        stats = engine.stats
        assert (stats.lookups, stats.hits) == (3, 2)
        assert (stats.store_lookups, stats.store_hits, stats.store_in_use) == (1, 1 - runs, True)
        engine.close()
    assert oct((tmp_path / "c.db").stat().st_mode & 0o777) == "0o600"


def test_an_answer_comes_back_as_it_was_and_is_the_callers_own(tmp_path: Path) -> None:
    store = CacheStore(tmp_path / "c.db", 1 << 20)
    store.put(b"k", ANSWER)
    for _ in range(2):
        found = store.get(b"k")
        assert found is not None
        for name, array in ANSWER.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
        found["y"][:] = 0


_PARTS = st.tuples(
    st.sampled_from(["sha256:a", "sha256:ab", ""]),
    st.sampled_from(["onnxruntime 1", "onnxruntime 11", "b"]),
    st.dictionaries(
        st.sampled_from(["x", "xy", "y"]),
        st.sampled_from(
            [
                np.zeros((1, 2), np.float32),
                np.zeros((2, 1), np.float32),
                np.zeros((1, 2), np.int32),
                np.zeros((1, 1), np.float64),
                np.ones((1, 2), np.float32),
                np.array([["x", ""]]),
            ]
        ),
        min_size=1,
    ),
)


def _exact(parts: Any) -> Any:
    artifact, engine, inputs = parts
    arrays = [(n, a.dtype.str, a.shape, a.tobytes()) for n, a in sorted(inputs.items())]
    return artifact, engine, arrays


@given(_PARTS, _PARTS)
def test_keys_are_equal_only_where_everything_is(one: Any, two: Any) -> None:
    assert (key_of(*one) == key_of(*two)) == (_exact(one) == _exact(two))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 3), st.sampled_from([None, "y"])),
        min_size=1,
        max_size=30,
    )
)
def test_no_answer_ever_crosses_model_version_outputs_or_input(calls: list[Any]) -> None:
    """Through whole runtimes that share one file, closed and opened on the way."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        named = [("m", "1", 0.0), ("m", "2", 1.0), ("other", "1", 2.0)]
        for model, version, shift in named:
            make_bundle(home / f"{model}{version}", model=model, version=version, shift=shift)
        options = RuntimeOptions(cache=_limits(home / "c.db"))
        for _ in range(2):
            runtimes = [Runtime.open(home / f"{m}{v}", options) for m, v, _ in named]
            for which, value, wanted in calls:
                x = np.full((1 + value % 2, 4), value, np.float32)
                answer = runtimes[which].answer({"x": x}, None if wanted is None else [wanted])
                right = linear(x, BIAS + named[which][2])
                np.testing.assert_allclose(answer.outputs["y"], right, atol=1e-5)
                assert answer.release.card.model == named[which][0]
            for runtime in runtimes:
                runtime.close()


def test_the_quota_takes_what_was_not_used_longest(tmp_path: Path) -> None:
    store = CacheStore(tmp_path / "c.db", 20_000)
    answer = {"y": np.zeros(200, np.float32)}
    for n in range(60):
        store.put(str(n).encode(), answer)
        assert store.get(b"0") is not None
        assert store.bytes <= 20_000
    assert store.get(b"59") is not None
    assert store.get(b"1") is None
    store.put(b"large", {"y": np.zeros(2000, np.float32)})
    assert store.get(b"large") is None
    store.close()
    assert CacheStore(tmp_path / "c.db", 20_000).bytes <= 20_000


def test_a_damaged_row_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    store = CacheStore(path, 1 << 20)
    store.put(b"k", ANSWER)
    store.put(b"l", ANSWER)
    store.close()
    with sqlite3.connect(path) as database:
        (value,) = database.execute("select value from answers where key = ?", (b"k",)).fetchone()
        for wrong in (value[:-1] + b"\x07", value[:10], b""):
            database.execute("update answers set value = ? where key = ?", (wrong, b"k"))
            database.execute("insert or replace into answers values (?, ?, 1, 1)", (b"m", value))
            database.commit()
            again = CacheStore(path, 1 << 20)
            assert again.get(b"k") is None
            assert again.get(b"m") is None
            assert again.get(b"l") is not None
            again.put(b"k", ANSWER)
            again.close()


@pytest.mark.parametrize("content", [b"noise" * 1000, b"", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(content)
    store = CacheStore(path, 1 << 20)
    store.put(b"k", ANSWER)
    assert (store.problem, store.get(b"k") is not None) == ("", True)


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inner = FakeEngine()
    engine = CachingEngine(inner, _limits(tmp_path / "file" / "c.db"), "a")
    for _ in range(2):
        assert engine.run(X)["y"][0, 0] == 4.0
    stats = engine.stats
    assert (inner.runs, stats.hits, stats.store_in_use) == (1, 1, False)
    engine.close()


def test_it_rests_by_itself_where_it_does_not_pay(tmp_path: Path) -> None:
    inner = FakeEngine()
    limits = CacheLimits(store=tmp_path / "c.db", bytes=0, window_calls=20, rest_calls=1000)
    engine = CachingEngine(inner, limits, "a")
    for n in range(100):
        engine.run({"x": np.full((1, 4), n, np.float32)})
    stats = engine.stats
    assert (stats.in_use, stats.store_in_use, stats.store_lookups) == (False, False, 20)
    engine.close()
