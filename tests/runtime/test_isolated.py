import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import linear, make_onnx
from skerry.devices.errors import BundleError, CancelledError, UnavailableError
from skerry.runtime.engine.base import EngineOptions
from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[IsolatedEngine]:
    limits = IsolationLimits(call_s=20.0, restart_s=0.0)
    engine = IsolatedEngine("onnx", make_onnx(tmp_path / "m.onnx"), EngineOptions(), limits)
    yield engine
    engine.close()


def _right(engine: IsolatedEngine) -> bool:
    return np.allclose(engine.run({"in": X})["out"], linear(X), atol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_between_calls_is_one_typed_error_then_service_is_back(
    engine: IsolatedEngine, number: signal.Signals
) -> None:
    assert _right(engine)
    assert engine.pid is not None
    os.kill(engine.pid, number)
    with pytest.raises(UnavailableError, match=rf"died \({number.name}\)"):
        engine.run({"in": X})
    assert _right(engine)
    assert engine.starts == 2


def test_a_hang_ends_at_the_deadline_and_service_is_back(tmp_path: Path) -> None:
    limits = IsolationLimits(call_s=1.0, restart_s=0.0)
    engine = IsolatedEngine("onnx", make_onnx(tmp_path / "m.onnx"), EngineOptions(), limits)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(CancelledError, match="no answer within"):
        engine.run({"in": X})
    assert _right(engine)
    engine.close()


def test_a_crash_under_load_hits_no_caller_twice(engine: IsolatedEngine) -> None:
    failed: list[int] = []
    over = threading.Event()

    def call(number: int) -> None:
        while not over.is_set():
            try:
                assert _right(engine)
            except UnavailableError:
                failed.append(number)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for kill in range(3):
        assert _right(engine)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSEGV)
        until = time.monotonic() + 20
        while len(failed) == kill and time.monotonic() < until:
            over.wait(0.005)
    over.set()
    for thread in threads:
        thread.join()
    assert engine.starts == 4
    assert len(failed) == 3


def test_a_process_that_keeps_dying_is_not_started_without_pause(tmp_path: Path) -> None:
    limits = IsolationLimits(restart_s=60.0)
    engine = IsolatedEngine("onnx", make_onnx(tmp_path / "m.onnx"), EngineOptions(), limits)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(UnavailableError, match="died"):
        engine.run({"in": X})
    with pytest.raises(UnavailableError, match="not back yet"):
        engine.run({"in": X})
    assert engine.starts == 1
    engine.close()


def test_too_little_memory_is_a_typed_error(tmp_path: Path) -> None:
    limits = IsolationLimits(memory_bytes=40 << 20)
    with pytest.raises(UnavailableError, match="did not start"):
        IsolatedEngine("onnx", make_onnx(tmp_path / "m.onnx"), EngineOptions(), limits)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"junk")
    with pytest.raises(BundleError, match="refuses"):
        IsolatedEngine("onnx", tmp_path / "m.onnx", EngineOptions(), IsolationLimits())


def test_it_ends_with_its_parent_even_in_the_middle_of_a_call(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from skerry.runtime.engine.base import EngineOptions;"
        "from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits;"
        "e = IsolatedEngine('onnx', Path(sys.argv[1]), EngineOptions(), IsolationLimits());"
        "print(e.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(make_onnx(tmp_path / "m.onnx"))]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    watched = os.pidfd_open(pid)
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    os.kill(pid, signal.SIGCONT)
    assert select.select([watched], [], [], 20)[0] == [watched]
    os.close(watched)
    parent.stdout.close()


def test_closing_ends_the_process(engine: IsolatedEngine) -> None:
    pid = engine.pid
    assert pid is not None
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(UnavailableError, match="closed"):
        engine.run({"in": X})
