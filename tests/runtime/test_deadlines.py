"""A caller's deadline: what still waits is not begun, what runs is ended where that can be."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fakes.bundles import linear, make_bundle, make_onnx
from skerry.devices.errors import CancelledError, UnavailableError
from skerry.runtime.breaker import BreakerLimits
from skerry.runtime.engine.base import EngineOptions
from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits
from skerry.runtime.engine.select import open_engine
from skerry.runtime.observe import Observation
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def _endless(path: Path) -> Path:
    """An ONNX file of `linear`'s shapes that multiplies in a loop of 2^40 turns."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "m"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["n", 3]),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["in", "start", "end", "axis"], ["three"]),
            helper.make_node("Loop", ["turns", "yes", "three"], ["out"], body=body),
        ],
        "endless",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.eye(3, dtype=np.float32), "m"),
            numpy_helper.from_array(np.array(1 << 40, np.int64), "turns"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array([0], np.int64), "start"),
            numpy_helper.from_array(np.array([3], np.int64), "end"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_what_is_late_already_is_not_begun(tmp_path: Path, kind: str) -> None:
    path = make_bundle(tmp_path / "b", formats=("onnx", "tflite"))
    runtime = Runtime.open(path, RuntimeOptions(artifact=f"{kind}-fp32"))
    with pytest.raises(CancelledError):
        runtime.predict({"x": X}, until=time.monotonic() - 1)
    found = runtime.predict({"x": X}, until=time.monotonic() + 20)
    np.testing.assert_allclose(found["y"], linear(X), atol=1e-5)


def test_onnx_runtime_stops_in_the_middle(tmp_path: Path) -> None:
    engine = open_engine("onnx", _endless(tmp_path / "m.onnx"))
    for _ in range(2):
        with pytest.raises(CancelledError, match="stopped at the deadline"):
            engine.run({"in": X}, time.monotonic() + 0.05)
    engine.close()


def test_a_callers_deadline_ends_no_process_and_the_stale_answer_reaches_nobody(
    tmp_path: Path,
) -> None:
    limits = IsolationLimits(call_s=20.0)
    engine = IsolatedEngine("onnx", make_onnx(tmp_path / "m.onnx"), EngineOptions(), limits)
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    for _ in range(2):
        with pytest.raises(CancelledError):
            engine.run({"in": X}, time.monotonic() + 0.05)
    os.kill(pid, signal.SIGCONT)
    other = X + 1
    np.testing.assert_allclose(engine.run({"in": other})["out"], linear(other), atol=1e-5)
    assert (engine.pid, engine.starts) == (pid, 1)
    engine.close()


def test_a_hang_outlives_callers_but_not_its_own_limit(tmp_path: Path) -> None:
    limits = IsolationLimits(call_s=2.0, restart_s=0.0)
    engine = IsolatedEngine("onnx", make_onnx(tmp_path / "m.onnx"), EngineOptions(), limits)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(CancelledError, match="by the deadline"):
        engine.run({"in": X}, time.monotonic() + 0.05)
    np.testing.assert_allclose(engine.run({"in": X})["out"], linear(X), atol=1e-5)
    assert engine.starts == 2
    engine.close()


def test_impatient_callers_are_not_the_engines_fault(tmp_path: Path) -> None:
    class Seen(list[Observation]):
        def observed(self, call: Observation) -> None:
            self.append(call)

    seen = Seen()
    options = RuntimeOptions(breaker=BreakerLimits(failures=2, rest_s=60.0))
    runtime = Runtime.open(make_bundle(tmp_path / "b"), options, seen)
    for _ in range(5):
        with pytest.raises(CancelledError):
            runtime.predict({"x": X}, until=time.monotonic() - 1)
    runtime.predict({"x": X})
    assert [call.error for call in seen] == ["cancelled"] * 5 + [None]


def test_a_caller_does_not_wait_for_a_new_process_beyond_its_deadline(tmp_path: Path) -> None:
    limits = IsolationLimits(call_s=20.0, restart_s=0.0)
    engine = IsolatedEngine("onnx", make_onnx(tmp_path / "m.onnx"), EngineOptions(), limits)
    for starts in (2, 3):
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="died"):
            engine.run({"in": X})
        with pytest.raises(CancelledError, match="not back by the deadline"):
            engine.run({"in": X}, time.monotonic() + 0.001)
        np.testing.assert_allclose(_insist(engine), linear(X), atol=1e-5)
        assert engine.starts == starts
    engine.close()


def _insist(engine: IsolatedEngine) -> NDArray[Any]:
    """What a caller gets who asks again and again, each time with hardly any patience.

    The engine's process comes back in between: no call may take its greeting for an answer.
    """
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with suppress(CancelledError):
            return engine.run({"in": X}, time.monotonic() + 0.002)["out"]
    raise AssertionError("it did not come back")
