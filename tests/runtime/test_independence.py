"""Strangers' rows share a batch only where the model answers each row by itself."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fakes.bundles import make_bundle, make_text_bundle
from skerry.devices.errors import UnavailableError
from skerry.runtime.bundle.card import TensorSpec, Tolerance
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle
from skerry.runtime.crew import Crew, CrewLimits
from skerry.runtime.independence import rows_are_independent
from skerry.runtime.prepare import RuntimeOptions, prepare
from skerry.runtime.runtime import Answer, Runtime
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.placement import batch_rows, place

WEIGHT = np.random.default_rng(3).integers(-120, 120, size=(4, 3)).astype(np.int8)
CLOSE = Tolerance(atol=1e-3)


def dynamic_bundle(folder: Path, rows: int = 8) -> Path:
    """Write a bundle whose activations take one scale over the whole batch: x [n, 4] → y [n, 3]."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.onnx"
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    write_bundle(
        folder,
        model="dynamic",
        version="1",
        inputs=[TensorSpec("x", "float32", (-1, 4))],
        outputs=[TensorSpec("y", "float32", (-1, 3))],
        artifacts=[
            ArtifactFile(
                path=path,
                format="onnx",
                precision="fp32",  # the name tells nothing
                inputs=("x",),
                outputs=("y",),
                tolerance=Tolerance(atol=20.0),
                golden={"y": x @ WEIGHT.astype(np.float32)},
            )
        ],
        golden_inputs={"x": x},
    )
    return folder


def test_one_scale_over_the_batch_is_found_whatever_the_precision_is_called(tmp_path: Path) -> None:
    for rows in (1, 8):
        release = prepare(Bundle.open(dynamic_bundle(tmp_path / str(rows), rows)), RuntimeOptions())
        assert not release.independent
        release.batch_gain, release.row_seconds = 9.0, 1e-3
        assert batch_rows(release, ServeLimits(batch_gain=0.0)) == 1
        assert "none are joined" in place(release, ServeLimits()).why
        release.close()


def test_rows_of_other_models_are_independent(tmp_path: Path) -> None:
    bundles = [make_text_bundle(tmp_path / "t"), make_bundle(tmp_path / "one", golden_rows=1)]
    bundles += [make_bundle(tmp_path / f, formats=(f,)) for f in ("onnx", "tflite")]  # type: ignore[arg-type]
    for path in bundles:
        release = prepare(Bundle.open(path), RuntimeOptions())
        assert release.independent, path
        release.close()


@pytest.mark.parametrize("together", ["answer_all", "crew"])
def test_a_loud_neighbour_does_not_change_my_answer(tmp_path: Path, together: str) -> None:
    runtime = Runtime.open(dynamic_bundle(tmp_path / "b"))
    assert runtime.active is not None
    runtime.active.batch_gain = 9.0
    mine = np.random.default_rng(5).normal(size=(1, 4)).astype(np.float32)
    calls: list[Any] = [{"x": mine}, {"x": mine * np.float32(-1000)}, {"x": mine}]
    alone = runtime.predict({"x": mine})["y"]
    if together == "answer_all":
        found = runtime.answer_all(calls)
    else:
        go = threading.Event()
        with Crew(runtime, CrewLimits(threads=1)) as crew:
            crew._pool.submit(go.wait)
            futures = [crew.submit(inputs) for inputs in calls]
            go.set()
            found = [future.result(20) for future in futures]
    for one in (found[0], found[2]):
        assert isinstance(one, Answer)
        np.testing.assert_array_equal(one.outputs["y"], alone)
    runtime.close()


def test_a_standby_that_is_not_independent_answers_one_by_one(tmp_path: Path) -> None:
    """What answers may be another release than the one that was to."""
    runtime = Runtime.open(dynamic_bundle(tmp_path / "b"))
    first = runtime.active
    assert first is not None
    mine = np.ones((1, 4), np.float32)
    alone = runtime.predict({"x": mine})["y"]
    first.standby = prepare(first.bundle, RuntimeOptions())
    first.independent = True

    def broken(*_: Any) -> Any:
        raise UnavailableError("the engine failed")

    first.session.predict = broken  # type: ignore[method-assign]
    found = runtime.answer_all([{"x": mine}, {"x": mine * np.float32(1000)}])
    assert isinstance(found[0], Answer)
    assert found[0].fallback == "standby"
    np.testing.assert_array_equal(found[0].outputs["y"], alone)
    runtime.close()


class Function:
    """A session that computes `y` by a function of `x`."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def predict(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"y": self._function(inputs["x"])}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x * 2, True),
        (lambda x: x / np.float32(np.abs(x).max()), False),
        (lambda x: x - x.mean(axis=0), False),
        (lambda x: x / np.float32(len(x)), False),
        (lambda x: x.argmax(axis=-1), True),
        (lambda x: x[::-1].copy(), False),
        (lambda x: x.sum(axis=0), False),
        (lambda x: np.where(x > 2, np.nan, x), True),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_the_rule(function: Any, expected: bool, dtype: str) -> None:
    x = np.array([[3, 1, 2], [5, 7, 4]], dtype)
    session: Any = Function(function)
    assert rows_are_independent(session, {"x": x}, CLOSE) is expected


def test_no_answer_is_no_yes() -> None:
    def refuse(_: Any) -> Any:
        raise UnavailableError("out of memory")

    session: Any = Function(refuse)
    assert not rows_are_independent(session, {"x": np.ones((1, 3), np.float32)}, CLOSE)


def test_a_closed_runtime_makes_no_further_threads(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    runtime.close()
    before = threading.active_count()
    with pytest.raises(UnavailableError, match="closed"):
        asyncio.run(runtime.predict_async({"x": np.ones((1, 4), np.float32)}))
    assert threading.active_count() == before
