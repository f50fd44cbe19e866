import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fakes.bundles import BIAS, WEIGHT, linear, make_onnx
from fakes.engine import FakeEngine
from skerry.devices.errors import (
    BundleError,
    MissingExtraError,
    UnavailableError,
    UnsupportedError,
)
from skerry.runtime.engine.base import Engine, EngineOptions
from skerry.runtime.engine.caching import CacheLimits, CachingEngine
from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits
from skerry.runtime.engine.select import available_formats, open_engine

DATA = Path(__file__).parent / "data"
Make = Callable[[Path], Engine]

ENGINES: dict[str, Make] = {
    "onnxruntime": lambda tmp: open_engine("onnx", make_onnx(tmp / "m.onnx")),
    "onnxruntime, batch of 1": lambda tmp: open_engine("onnx", make_onnx(tmp / "m.onnx", rows=1)),
    "onnxruntime, batch of 4": lambda tmp: open_engine("onnx", make_onnx(tmp / "m.onnx", rows=4)),
    "onnxruntime, 2 threads": lambda tmp: open_engine(
        "onnx", make_onnx(tmp / "m.onnx"), EngineOptions(threads=2)
    ),
    "onnxruntime, cached": lambda tmp: CachingEngine(
        open_engine("onnx", make_onnx(tmp / "m.onnx")), CacheLimits()
    ),
    "onnxruntime, isolated": lambda tmp: IsolatedEngine(
        "onnx", make_onnx(tmp / "m.onnx"), EngineOptions(), IsolationLimits()
    ),
    "litert, batch of 1": lambda tmp: open_engine("tflite", DATA / "linear.tflite"),
    "fake": lambda tmp: FakeEngine(WEIGHT.T, 0.0),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = ENGINES[request.param](tmp_path)
    yield engine
    with suppress(AttributeError):  # closed already
        engine.close()


def _expected(engine: Engine, x: np.ndarray) -> np.ndarray:
    return linear(x, BIAS * (engine.name != "fake 1"))


def test_it_says_what_it_is(engine: Engine) -> None:
    assert engine.name.rpartition(" ")[2][0].isdigit()
    assert [spec.dtype for spec in (*engine.inputs, *engine.outputs)] == ["float32", "float32"]
    assert engine.inputs[0].shape[1:] == (4,)
    assert engine.outputs[0].shape[1:] == (3,)


@pytest.mark.parametrize("rows", [1, 2, 5, 1])
def test_a_batch_of_any_length_is_answered(engine: Engine, rows: int) -> None:
    x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
    found = engine.run({engine.inputs[0].name: x})
    assert list(found) == [engine.outputs[0].name]
    np.testing.assert_allclose(found[engine.outputs[0].name], _expected(engine, x), atol=1e-5)


def test_an_answer_is_the_callers_own(engine: Engine) -> None:
    name, out = engine.inputs[0].name, engine.outputs[0].name
    first = engine.run({name: np.zeros((1, 4), np.float32)})[out]
    kept = first.copy()
    engine.run({name: np.ones((1, 4), np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_several_threads_get_their_own_answers(engine: Engine) -> None:
    name, out = engine.inputs[0].name, engine.outputs[0].name

    def call(seed: int) -> None:
        x = np.random.default_rng(seed).normal(size=(1 + seed % 3, 4)).astype(np.float32)
        np.testing.assert_allclose(engine.run({name: x})[out], _expected(engine, x), atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(200)))


def test_a_failed_call_is_a_typed_error_and_the_next_one_works(engine: Engine) -> None:
    name, out = engine.inputs[0].name, engine.outputs[0].name
    with pytest.raises(UnavailableError):
        engine.run({name: np.zeros((1, 5), np.float32)})
    with pytest.raises(UnavailableError):
        engine.run({name: np.zeros((1, 4), np.int64)})
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(engine.run({name: x})[out], _expected(engine, x), atol=1e-5)
    engine.close()


def test_litert_follows_a_free_batch_axis() -> None:
    engine = open_engine("tflite", DATA / "relu_dynamic.tflite")
    name, out = engine.inputs[0].name, engine.outputs[0].name
    assert engine.inputs[0].shape[0] == -1
    for rows in (3, 1, 8, 3):
        x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        np.testing.assert_allclose(engine.run({name: x})[out], np.maximum(x, 0) * 2 + 1, atol=1e-6)


def test_litert_knows_a_tensor_by_its_own_name_too() -> None:
    engine = open_engine("tflite", DATA / "linear.tflite")
    x = np.ones((1, 4), np.float32)
    found = engine.run({"serving_default_args_0": x})
    np.testing.assert_allclose(found["output_0"], linear(x), atol=1e-5)


def test_tflite_runtime_takes_over_where_only_that_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ai_edge_litert.interpreter as library

    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", library)
    monkeypatch.setattr("skerry.runtime.engine.litert.version", lambda package: "2.14.0")
    engine = open_engine("tflite", DATA / "linear.tflite")
    assert engine.name == "tflite-runtime 2.14.0"
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(engine.run({"args_0": x})["output_0"], linear(x), atol=1e-5)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    with pytest.raises(MissingExtraError):
        open_engine("tflite", DATA / "linear.tflite")


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("data", [b"", b"junk" * 100])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, kind: str, data: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="refuses"):
        open_engine(kind, path)  # type: ignore[arg-type]


def test_core_ml_says_that_it_does_not_run_here(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="choose an ONNX or TFLite"):
        open_engine("coreml", tmp_path)


def test_what_is_installed_is_found() -> None:
    assert available_formats() == ("onnx", "tflite")
