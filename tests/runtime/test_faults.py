"""Faults while threads call without pause: an answer or a typed error, and back by itself."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from fakes import faults
from fakes.bundles import make_bundle
from fakes.faults import Load, Seen, two_releases
from skerry.devices.errors import DigestMismatch, UnavailableError
from skerry.runtime.bundle.reader import Bundle

_STANDS_IN = {"active", "previous", "default"}


def _answered_all(seen: Seen) -> None:
    assert seen.wrong == []
    assert set(seen.outcomes) <= _STANDS_IN, seen
    assert seen.outcomes["active"] > 0


@pytest.mark.parametrize("fault", [faults.segfault, faults.hang, faults.corrupt_blob])
def test_the_previous_release_answers_until_the_engine_is_back(
    tmp_path: Path, fault: object
) -> None:
    seen = fault(tmp_path)  # type: ignore[operator]
    _answered_all(seen)
    assert seen.outcomes["previous"] > 0


def test_a_call_beyond_its_memory_is_a_typed_error_of_its_own(tmp_path: Path) -> None:
    seen = faults.out_of_memory(tmp_path)
    assert seen.wrong == []
    assert seen.outcomes["active"] > 0
    assert sum(count for name, count in seen.outcomes.items() if "large call" in name) == 2
    assert "untyped" not in seen.outcomes


def test_the_wall_clock_matters_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, real_ns, offset = time.time, time.time_ns, [0.0]
    monkeypatch.setattr("time.time", lambda: real() + offset[0])
    monkeypatch.setattr("time.time_ns", lambda: real_ns() + int(offset[0] * 1e9))

    def jump(seconds: float) -> None:
        offset[0] += seconds

    seen = faults.clock_jump(tmp_path, jump)
    _answered_all(seen)
    assert seen.outcomes["previous"] == 0


def test_a_full_disk_takes_no_answer_away(tmp_path: Path) -> None:
    try:
        with faults.small_disk(tmp_path / "small", 512 << 10) as small:
            seen = faults.full_disk(tmp_path, small)
    except PermissionError as error:
        pytest.skip(f"mounting a small disk needs root: {error}")
    _answered_all(seen)
    assert seen.outcomes["previous"] == 0


def test_a_release_whose_blob_is_damaged_is_refused_under_load(tmp_path: Path) -> None:
    bad = Bundle.open(make_bundle(tmp_path / "bad", version="3", shift=3.0))
    path = bad.path(bad.card.artifacts[0].blob)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with two_releases(tmp_path) as runtime, Load(runtime) as load:
        load.forget()
        for _ in range(3):
            with pytest.raises(DigestMismatch):
                runtime.prepare(bad)
        load.until_active()
    _answered_all(load.seen)
    assert load.seen.outcomes["previous"] == 0


def test_with_nothing_to_fall_back_on_the_default_answers(tmp_path: Path) -> None:
    default = {"y": np.zeros(3, np.float32)}
    with two_releases(tmp_path, default=default) as runtime:
        runtime.forget_previous()
        with Load(runtime) as load:
            engine = faults.engine_of(runtime)
            load.forget()
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            load.until(lambda seen: seen.outcomes["default"] > 0)
            load.until_active()
    _answered_all(load.seen)


def test_without_any_of_it_the_error_says_what_happened(tmp_path: Path) -> None:
    with two_releases(tmp_path) as runtime:
        runtime.forget_previous()
        engine = faults.engine_of(runtime)
        engine._started = time.monotonic() + 1e6
        engine._end()
        with pytest.raises(UnavailableError, match="not back yet"):
            runtime.predict({"x": np.zeros((1, 4), np.float32)})
