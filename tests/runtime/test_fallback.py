"""What answers where the active release cannot."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import BIAS, linear, make_bundle
from skerry.devices.errors import SignatureMismatch, UnavailableError
from skerry.runtime.breaker import BreakerLimits
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.engine.base import Arrays
from skerry.runtime.engine.caching import CacheLimits
from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits
from skerry.runtime.observe import Observation
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.prepared import Prepared
from skerry.runtime.runtime import Runtime

X = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


class Seen(list[Observation]):
    def observed(self, call: Observation) -> None:
        self.append(call)


class Sick:
    """Makes a release's engine fail until `healed`."""

    def __init__(self, release: Prepared | None) -> None:
        assert release is not None
        self.asked, self.healed = 0, False
        self._predict = release.session.predict
        release.session.predict = self.predict  # type: ignore[method-assign]

    def predict(self, inputs: Arrays, *words: object) -> Arrays:
        self.asked += 1
        if self.healed:
            return self._predict(inputs)
        raise UnavailableError("the engine failed", where="engine")


def _two(tmp_path: Path, **options: object) -> Runtime:
    runtime = Runtime(RuntimeOptions(**options))  # type: ignore[arg-type]
    for version, shift in (("1", 0.0), ("2", 1.0)):
        bundle = make_bundle(tmp_path / version, version=version, shift=shift)
        runtime.activate(runtime.prepare(Bundle.open(bundle)))
    return runtime


def test_without_anything_to_fall_back_on_the_error_is_told(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    Sick(runtime.active)
    with pytest.raises(UnavailableError, match="the engine failed"):
        runtime.predict({"x": X})


def test_the_previous_release_stands_in_under_its_own_name(tmp_path: Path) -> None:
    runtime = _two(tmp_path)
    Sick(runtime.active)
    answer = runtime.answer({"x": X})
    assert (answer.fallback, answer.release.card.version) == ("previous", "1")
    np.testing.assert_allclose(answer.outputs["y"], linear(X), atol=1e-5)
    with pytest.raises(UnavailableError):
        runtime.answer({"x": X}, version="2")


def test_a_standby_artifact_of_the_same_bundle_comes_first(tmp_path: Path) -> None:
    options = RuntimeOptions(artifact="onnx-fp32", standby="tflite-fp32")
    path = make_bundle(tmp_path / "b", formats=("onnx", "tflite"))
    seen = Seen()
    runtime = Runtime.open(path, options, seen)
    Sick(runtime.active)
    answer = runtime.answer({"x": X}, ["y"])
    assert (answer.fallback, answer.release.artifact.name) == ("standby", "tflite-fp32")
    np.testing.assert_allclose(answer.outputs["y"], linear(X), atol=1e-5)
    assert [(c.artifact, c.error) for c in seen] == [("onnx-fp32", "engine"), ("tflite-fp32", None)]


def test_the_declared_default_is_the_last_resort(tmp_path: Path) -> None:
    default = {"y": np.array([0.0, 0.0, 1.0], np.float32)}
    runtime = Runtime.open(make_bundle(tmp_path / "b"), RuntimeOptions(default=default))
    Sick(runtime.active)
    answer = runtime.answer({"x": X})
    assert answer.fallback == "default"
    np.testing.assert_array_equal(answer.outputs["y"], [[0.0, 0.0, 1.0]] * 3)


def test_a_bad_call_is_not_passed_on(tmp_path: Path) -> None:
    runtime = _two(tmp_path)
    with pytest.raises(SignatureMismatch):
        runtime.predict({"x": X[0]})


def test_a_sick_engine_is_left_alone_and_a_healed_one_is_found(tmp_path: Path) -> None:
    runtime = _two(tmp_path, breaker=BreakerLimits(failures=3, rest_s=0.05))
    active = runtime.active
    assert active is not None
    sick = Sick(active)
    for _ in range(10):
        assert runtime.answer({"x": X}).fallback == "previous"
    assert sick.asked <= 5
    sick.healed = True
    while runtime.answer({"x": X}).fallback is not None:
        pass
    assert not active.breaker.open
    np.testing.assert_allclose(runtime.predict({"x": X})["y"], linear(X, BIAS + 1), atol=1e-5)


def test_an_isolated_engine_that_crashes_is_answered_around_and_comes_back(
    tmp_path: Path,
) -> None:
    limits = IsolationLimits(restart_s=0.0)
    runtime = _two(tmp_path, isolation=limits, cache=CacheLimits())
    assert runtime.active is not None
    engine = runtime.active.session._engine._engine  # type: ignore[attr-defined]
    assert isinstance(engine, IsolatedEngine)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSEGV)
    assert runtime.answer({"x": X}).fallback == "previous"
    assert runtime.answer({"x": X}).fallback is None
    runtime.close()
    assert engine.pid is None


def test_only_a_release_of_the_same_signature_stands_in(tmp_path: Path) -> None:
    runtime = _two(tmp_path)
    assert runtime.previous is not None
    import msgspec

    runtime.previous.card = msgspec.structs.replace(runtime.previous.card, model="another")
    Sick(runtime.active)
    with pytest.raises(UnavailableError):
        runtime.predict({"x": X})
