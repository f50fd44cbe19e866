from threading import Thread

import numpy as np
import pytest

from fakes.clock import FakeClock
from skerry.devices.digest import Digest
from skerry.devices.errors import InputError
from skerry.runtime.observe import Observation
from skerry.telemetry.recorder import Recorder
from skerry.telemetry.window import Window, WindowLimits

MODEL = Digest.of(b"model")


def call(rows=2, error=None, artifact="onnx-int8", seconds=0.01):
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    y = np.eye(4, dtype=np.float32)[np.arange(rows) % 4]
    return Observation(MODEL, artifact, seconds, rows, {"x": x}, {"y": y}, error)


def test_calls_become_one_window_for_each_artifact():
    clock = FakeClock(now=1000.0)
    recorder = Recorder(clock)
    for _ in range(10):
        recorder.observed(call())
    recorder.observed(call(0, "deadline"))
    recorder.observed(call(artifact="tflite-int8"))
    clock.advance(60)
    windows = {window.artifact: window for window in recorder.rotate()}
    window = Window.decode(windows["onnx-int8"].encode())
    assert (window.start, window.end) == (1000.0, 1060.0)
    assert (window.requests, window.rows, window.errors) == (11, 20, {"deadline": 1})
    assert window.failures == 1
    assert window.manifest == str(MODEL)
    assert window.latency.quantile(0.5) == pytest.approx(0.01, rel=0.03)
    assert window.classes == {"output/y": [10, 10, 0, 0]}
    assert window.sketch_set().features["input/x/column/0"].count == 20
    assert window.rss_bytes > 1 << 20
    assert windows["tflite-int8"].requests == 1
    assert recorder.rotate() == []


def test_no_call_is_lost_between_threads():
    recorder, windows = Recorder(), []

    def work():
        for _ in range(300):
            recorder.observed(call())

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        windows += recorder.rotate()
    windows += recorder.rotate()
    assert sum(window.requests for window in windows) == 1200
    assert sum(window.sketch_set().rows for window in windows) == 2400


def test_kinds_of_errors_are_bounded():
    recorder = Recorder()
    for n in range(500):
        recorder.observed(call(0, f"kind {n}"))
    (window,) = recorder.rotate()
    assert len(window.errors) == WindowLimits().errors
    assert window.failures == 500
    assert Window.decode(window.encode()) == window


def test_the_clock_may_run_backward():
    clock = FakeClock()
    recorder = Recorder(clock)
    recorder.observed(call())
    clock.jump(-3600)
    (window,) = recorder.rotate()
    assert window.end >= window.start


@pytest.mark.parametrize(
    "change", [{"end": 1.0}, {"manifest": "x"}, {"requests": -1}, {"clock": "?"}]
)
def test_windows_out_of_bounds_are_refused(change):
    import msgspec

    recorder = Recorder()
    recorder.observed(call())
    (window,) = recorder.rotate()
    wire = {**msgspec.to_builtins(window, builtin_types=(bytes,)), **change}
    with pytest.raises(InputError):
        Window.decode(msgspec.msgpack.encode(wire))
