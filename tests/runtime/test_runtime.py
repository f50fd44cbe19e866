import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import BIAS, linear, make_bundle
from skerry.devices.errors import (
    BundleError,
    DigestMismatch,
    GoldenError,
    InputError,
    SignatureMismatch,
    UnavailableError,
    UnsupportedError,
)
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.observe import Observation
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime

X = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def _runtime(tmp_path: Path, **more: object) -> Runtime:
    return Runtime.open(make_bundle(tmp_path / "b", **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("artifact", ["onnx-fp32", "tflite-fp32"])
def test_a_bundle_answers_under_the_cards_names(tmp_path: Path, artifact: str) -> None:
    path = make_bundle(tmp_path / "b", formats=("onnx", "tflite"))
    runtime = Runtime.open(path, RuntimeOptions(artifact=artifact))
    answer = runtime.predict({"x": X}, outputs=["y"])
    np.testing.assert_allclose(answer["y"], linear(X), atol=1e-5)
    info = runtime.info()
    assert info is not None
    assert (info.artifact, info.version) == (artifact, "1")
    assert info.manifest == str(Bundle.open(path).manifest.digest)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "input x: is missing"),
        ({"x": X, "z": X}, "input z: is no input"),
        ({"z": X}, "input x: is missing"),
        ({"x": X.astype(np.float64)}, "input x: is float64, expected float32"),
        ({"x": X.astype(">f4")}, "input x: is >f4, expected float32"),
        ({"x": X.tolist()}, "input x: is list"),
        ({"x": X[:, :3]}, r"input x: has shape \[3, 3\], expected \[any, 4\]"),
        ({"x": X[0]}, r"input x: has shape \[4\]"),
        ({"x": np.array(1, np.float32)}, r"input x: has shape \[\]"),
        ({"x": X[:0]}, "input x: 0 rows"),
        ({"x": np.zeros((4097, 4), np.float32)}, "input x: 4097 rows"),
        ({"x": np.where(X[1, 1] == X, np.float32("nan"), X)}, "input x: contains NaN"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, inputs: dict[str, np.ndarray], says: str
) -> None:
    runtime = _runtime(tmp_path)
    with pytest.raises(SignatureMismatch, match=says):
        runtime.predict(inputs)
    with pytest.raises(SignatureMismatch, match="output q"):
        runtime.predict({"x": X}, ["q"])


def test_infinity_is_a_number_and_nan_is_found_in_a_large_input(tmp_path: Path) -> None:
    runtime = _runtime(tmp_path)
    infinite = np.array([[np.inf, -np.inf, 1e38, 3e38]], np.float32)
    runtime.predict({"x": infinite})
    large = np.zeros((4000, 4), np.float32)
    large[2345, 2] = np.nan
    with pytest.raises(SignatureMismatch, match="NaN"):
        runtime.predict({"x": large})


def test_an_array_that_is_not_contiguous_is_answered(tmp_path: Path) -> None:
    x = np.asfortranarray(np.repeat(X, 2, axis=0))[::2]
    np.testing.assert_allclose(_runtime(tmp_path).predict({"x": x})["y"], linear(X), atol=1e-5)


def test_without_a_model_it_says_so() -> None:
    runtime = Runtime()
    assert runtime.info() is None
    with pytest.raises(UnavailableError, match="no model is active"):
        runtime.predict({"x": X})


def test_a_failed_golden_leaves_the_old_one_serving(tmp_path: Path) -> None:
    runtime = _runtime(tmp_path)
    bad = Bundle.open(make_bundle(tmp_path / "bad", version="2", golden_error=0.25))
    with pytest.raises(GoldenError, match=r"onnx-fp32: output y: differs from golden by 0\.25"):
        runtime.prepare(bad)
    assert runtime.info().version == "1"  # type: ignore[union-attr]
    runtime.predict({"x": X})


def test_a_rotten_artifact_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    path = bundle.path(bundle.card.artifacts[0].blob)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DigestMismatch):
        Runtime().prepare(bundle)


def test_a_bundle_that_nothing_here_runs_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    with pytest.raises(UnsupportedError, match="onnx-fp32"):
        Runtime(RuntimeOptions(formats=("tflite",))).prepare(bundle)
    with pytest.raises(BundleError, match="onnx-fp32"):
        Runtime(RuntimeOptions(artifact="onnx-int9")).prepare(bundle)


def test_going_back_is_activating_the_previous(tmp_path: Path) -> None:
    runtime = _runtime(tmp_path)
    first = runtime.active
    second = runtime.prepare(Bundle.open(make_bundle(tmp_path / "2", version="2", shift=1.0)))
    runtime.activate(second)
    assert (runtime.active, runtime.previous) == (second, first)
    np.testing.assert_allclose(runtime.predict({"x": X})["y"], linear(X, BIAS + 1), atol=1e-5)
    old = runtime.answer({"x": X}, version="1")
    assert old.release is first
    assert first is not None
    runtime.activate(first)
    np.testing.assert_allclose(runtime.predict({"x": X})["y"], linear(X), atol=1e-5)
    runtime.forget_previous()
    with pytest.raises(InputError, match="no version '2'"):
        runtime.answer({"x": X}, version="2")
    with pytest.raises(UnavailableError, match="closed"):
        second.predict({"x": X})


def test_no_call_is_lost_or_mislabelled_in_200_swaps(tmp_path: Path) -> None:
    bundles = [
        Bundle.open(make_bundle(tmp_path / str(n), version=str(n), shift=float(n))) for n in (0, 1)
    ]
    runtime = Runtime()
    runtime.activate(runtime.prepare(bundles[0]))
    over, answered, wrong = threading.Event(), Counter[str](), []

    def call() -> None:
        while not over.is_set():
            try:
                outputs, release, _ = runtime.answer({"x": X})
            except Exception as error:
                wrong.append(repr(error))
                return
            version = release.card.version
            if not np.allclose(outputs["y"], linear(X, BIAS + float(version)), atol=1e-5):
                wrong.append(f"an answer of another version than {version}")
            answered[version] += 1

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for swap in range(200):
        runtime.activate(runtime.prepare(bundles[(swap + 1) % 2]))
    over.set()
    for thread in threads:
        thread.join()
    runtime.close()
    assert wrong == []
    assert min(answered["0"], answered["1"]) > 0


def test_a_call_under_way_ends_on_the_release_it_began_with(tmp_path: Path) -> None:
    runtime = _runtime(tmp_path)
    release = runtime.active
    assert release is not None
    assert release.enter()
    runtime.close()
    np.testing.assert_allclose(release.session.predict({"x": X})["y"], linear(X), atol=1e-5)
    release.leave()
    assert not release.enter()


def test_going_back_to_a_release_that_still_drains_loads_it_again(tmp_path: Path) -> None:
    runtime = Runtime()
    first, second, third = (
        runtime.prepare(Bundle.open(make_bundle(tmp_path / version, version=version)))
        for version in "123"
    )
    runtime.activate(first)
    assert first.enter()
    runtime.activate(second)
    runtime.activate(third)
    assert first.retired
    assert not first.closed
    runtime.activate(first)
    for _ in range(2):
        assert runtime.answer({"x": X}).release.card.version == "1"
        first.leave()
        runtime.activate(first)
    runtime.close()


def test_what_the_active_release_became_it_can_be_activated_again(tmp_path: Path) -> None:
    runtime = _runtime(tmp_path)
    release = runtime.active
    assert release is not None
    release.close()
    with pytest.raises(UnavailableError):
        runtime.predict({"x": X})
    runtime.activate(release)
    np.testing.assert_allclose(runtime.predict({"x": X})["y"], linear(X), atol=1e-5)
    runtime.close()


def test_the_observer_is_told_of_every_call(tmp_path: Path) -> None:
    class Seen(list[Observation]):
        def observed(self, call: Observation) -> None:
            self.append(call)

    seen = Seen()
    runtime = Runtime.open(make_bundle(tmp_path / "b"), observer=seen)
    runtime.predict({"x": X})
    with pytest.raises(SignatureMismatch):
        runtime.predict({"x": X[0]})
    good, bad = seen
    assert (good.rows, good.error, good.artifact) == (3, None, "onnx-fp32")
    assert set(good.inputs) == {"x"}
    assert set(good.outputs) == {"y"}
    assert (bad.rows, bad.error, dict(bad.inputs)) == (0, "signature", {})


def test_importing_the_runtime_loads_no_engine_and_no_server() -> None:
    code = (
        "import sys, skerry.runtime.runtime, skerry.runtime.bundle.reader;"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    loaded = set(output.decode().split())
    unwanted = {"onnxruntime", "ai_edge_litert", "uvicorn", "asyncio", "ssl", "safetensors"}
    assert loaded & unwanted == set()
