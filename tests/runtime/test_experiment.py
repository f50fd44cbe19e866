import threading
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.bundles import make_bundle
from skerry.devices.errors import InputError, SignatureMismatch, UnavailableError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.experiment import Canary, Shadow, ShadowLimits, falls_in
from skerry.runtime.observe import Observation
from skerry.runtime.prepared import Prepared
from skerry.runtime.runtime import Runtime

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


class Told:
    def __init__(self, seen: list[Observation]) -> None:
        self.observed = seen.append


def _candidate(tmp_path: Path, shift: float) -> Prepared:
    return Runtime().prepare(Bundle.open(make_bundle(tmp_path / "2", version="2", shift=shift)))


def _observation(runtime: Runtime, x: np.ndarray) -> Observation:
    outputs, release, _ = runtime.answer({"x": x})
    return Observation(release.manifest, "onnx-fp32", 0.0, len(x), {"x": x}, outputs)


def test_a_shadow_counts_agreement_and_difference(tmp_path: Path) -> None:
    shadow = Shadow(_candidate(tmp_path, 0.25))
    runtime = Runtime.open(make_bundle(tmp_path / "1"), observer=shadow)
    for _ in range(10):
        runtime.predict({"x": X})
    with pytest.raises(SignatureMismatch):
        runtime.predict({"x": X[0]})
    found = shadow.settle()
    assert (found.compared, found.rows, found.failed, found.dropped) == (10, 50, 0, 0)
    assert found.argmax == 1.0
    assert found.largest == pytest.approx(0.25, abs=1e-5)
    assert found.seconds > 0
    shadow.close()


def test_what_the_caller_does_with_its_arrays_later_is_not_compared(tmp_path: Path) -> None:
    shadow = Shadow(_candidate(tmp_path, 0.0))
    runtime = Runtime.open(make_bundle(tmp_path / "1"), observer=shadow)
    x = X.copy()
    for _ in range(20):
        answer = runtime.predict({"x": x})
        x += 1
        answer["y"][:] = 0
    assert shadow.settle().largest < 1e-4
    shadow.close()


def test_a_slow_candidate_never_holds_up_the_caller(tmp_path: Path) -> None:
    candidate = _candidate(tmp_path, 0.0)
    leave, answer = threading.Event(), candidate.session.predict

    def slow(*words: object) -> object:
        assert leave.wait(20)
        return answer(*words)  # type: ignore[arg-type]

    candidate.session.predict = slow  # type: ignore[method-assign,assignment]
    shadow = Shadow(candidate, ShadowLimits(waiting=2))
    runtime = Runtime.open(make_bundle(tmp_path / "1"), observer=shadow)
    for _ in range(10):
        runtime.predict({"x": X})
    leave.set()
    found = shadow.settle()
    assert found.compared + found.dropped == 10
    assert 2 <= found.compared <= 3
    shadow.close()


def test_a_candidate_that_fails_or_a_call_too_large_is_counted(tmp_path: Path) -> None:
    candidate = _candidate(tmp_path, 0.0)
    runtime = Runtime.open(make_bundle(tmp_path / "1"))
    call = _observation(runtime, X)
    shadow = Shadow(candidate, ShadowLimits(bytes=100))
    shadow.observed(call)
    assert shadow.settle().dropped == 1
    shadow.close()
    shadow = Shadow(candidate)
    candidate.close()
    shadow.observed(call)
    assert shadow.settle().failed == 1
    shadow.close()


@given(st.lists(st.binary(min_size=1), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_who_is_in_stays_in_at_a_larger_share(keys: list[bytes], a: float, b: float) -> None:
    small, large = sorted((a, b))
    for key in keys:
        assert falls_in(key, b"s", large) or not falls_in(key, b"s", small)
        assert falls_in(key, b"s", 1.0)
        assert not falls_in(key, b"s", 0.0)


def test_the_share_is_about_what_was_asked_and_differs_by_release() -> None:
    keys = [str(n).encode() for n in range(10_000)]
    one = {key for key in keys if falls_in(key, b"one", 0.1)}
    two = {key for key in keys if falls_in(key, b"two", 0.1)}
    assert 850 <= len(one) <= 1150
    assert len(one & two) < 200


def test_a_canary_answers_its_share_and_the_runtime_where_it_cannot(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "1"))
    candidate = _candidate(tmp_path, 1.0)
    seen: list[Observation] = []
    canary = Canary(runtime, candidate, 0.5, Told(seen))
    versions = {
        key: canary.answer({"x": X}, key=key).release.card.version
        for key in (str(n).encode() for n in range(50))
    }
    assert set(versions.values()) == {"1", "2"}
    for key, version in versions.items():
        assert canary.answer({"x": X}, key=key).release.card.version == version
    counts = Counter(versions.values())
    assert canary.active.answered == 2 * counts["1"]
    assert canary.candidate.answered == 2 * counts["2"] == len(seen)
    assert canary.candidate.seconds > 0
    assert {call.manifest for call in seen} == {candidate.manifest}
    with pytest.raises(SignatureMismatch):
        canary.answer({"x": X[0]}, key=next(k for k, v in versions.items() if v == "2"))
    assert (seen[-1].error, canary.failed) == ("signature", 0)
    candidate.close()
    for key, version in versions.items():
        answer = canary.answer({"x": X}, ["y"], key=key)
        assert answer.release.card.version == "1"
        assert answer.fallback == ("active" if version == "2" else None)
    assert canary.failed == list(versions.values()).count("2")
    runtime.close()
    with pytest.raises(UnavailableError):
        canary.answer({"x": X}, key=b"0")
    with pytest.raises(InputError, match="share"):
        Canary(runtime, candidate, 1.5)
    assert msgspec.json.encode(Shadow(candidate).agreement())
