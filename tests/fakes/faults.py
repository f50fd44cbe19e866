"""Faults of every kind, injected into a runtime while threads call it without pause.

Each scenario runs for real: processes are killed or stopped, blobs overwritten, disks filled. What
the callers saw is counted; tests assert on it, and a benchmark plan writes it down.
"""

import ctypes
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fakes.bundles import BIAS, WEIGHT, linear, make_bundle
from skerry.devices.errors import SkerryError
from skerry.runtime.bundle.card import TensorSpec, Tolerance
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle
from skerry.runtime.engine.caching import CacheLimits
from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime

DEADLINE_S = 5.0
_PATIENCE_S = 60.0
_AFTERWARDS = 200


@dataclass
class Seen:
    """What callers saw, from the fault to the end.

    Attributes:
        outcomes: calls by outcome: `active`, `previous`, `standby`, `default`, or an error's name.
        wrong: what must never be: answers of another value, errors without a type.
        longest_s: the longest call.
        back_s: from the fault until the active release answered again.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    back_s: float = 0.0


class Load:
    """Threads that call a runtime whose releases are `linear` shifted by their version."""

    def __init__(self, runtime: Runtime, threads: int = 3) -> None:
        self._runtime, self._over, self._lock = runtime, threading.Event(), threading.Lock()
        self.seen = Seen()
        self.active = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(seed,)) for seed in range(threads)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.until_active()
        return self

    def __exit__(self, *words: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def forget(self) -> None:
        """Count from now on."""
        with self._lock:
            self.seen = Seen()

    def until_active(self) -> float:
        """Wait until the active release answers. Returns the seconds that took."""
        began = time.monotonic()
        self.active.clear()
        assert self.active.wait(_PATIENCE_S), self.seen
        return time.monotonic() - began

    def back(self) -> None:
        """Wait until the active release answers, note when, and let it answer for a while."""
        self.seen.back_s = self.until_active()
        so_far = self.seen.outcomes["active"]
        self.until(lambda seen: seen.outcomes["active"] > so_far + _AFTERWARDS)

    def until(self, true: Callable[[Seen], bool]) -> None:
        """Wait until `true` of what was seen."""
        latest = time.monotonic() + _PATIENCE_S
        while not true(self.seen):
            assert time.monotonic() < latest, self.seen
            time.sleep(0.002)

    def _call(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self._over.is_set():
            x = rng.normal(size=(2, 4)).astype(np.float32)
            began = time.monotonic()
            outcome, wrong = self._one(x, began + DEADLINE_S)
            with self._lock:
                self.seen.outcomes[outcome] += 1
                self.seen.longest_s = max(self.seen.longest_s, time.monotonic() - began)
                if wrong:
                    self.seen.wrong.append(wrong)
            if outcome == "active":
                self.active.set()

    def _one(self, x: np.ndarray, until: float) -> tuple[str, str]:
        try:
            answer = self._runtime.answer({"x": x}, until=until)
        except SkerryError as error:
            return type(error).__name__, ""
        except Exception as error:
            return "untyped", repr(error)
        if answer.fallback != "default":
            right = linear(x, BIAS + float(answer.release.card.version))
            if not np.allclose(answer.outputs["y"], right, atol=1e-4):
                return "wrong", f"{answer.outputs['y']} for {right}"
        return answer.fallback or "active", ""


@contextmanager
def two_releases(
    folder: Path, limits: IsolationLimits | None = None, **options: object
) -> Iterator[Runtime]:
    """A runtime with version 2 active and version 1 to fall back on, each in its own process."""
    isolation = limits or IsolationLimits(call_s=1.0, restart_s=0.1)
    runtime = Runtime(RuntimeOptions(isolation=isolation, **options))  # type: ignore[arg-type]
    for version in ("1", "2"):
        path = make_bundle(folder / version, version=version, shift=float(version))
        runtime.activate(runtime.prepare(Bundle.open(path)))
    try:
        yield runtime
    finally:
        runtime.close()


def engine_of(runtime: Runtime) -> IsolatedEngine:
    """The active release's own engine."""
    active = runtime.active
    assert active is not None
    engine = active._engine
    engine = getattr(engine, "_engine", engine)
    assert isinstance(engine, IsolatedEngine)
    return engine


def _signalled(folder: Path, number: signal.Signals) -> Seen:
    with two_releases(folder) as runtime, Load(runtime) as load:
        engine = engine_of(runtime)
        load.forget()
        assert engine.pid is not None
        os.kill(engine.pid, number)
        load.until(lambda seen: seen.outcomes["previous"] > 0)
        load.back()
        assert engine.starts >= 2
    return load.seen


def segfault(folder: Path) -> Seen:
    """The engine's process ends by SIGSEGV in the middle of calls."""
    return _signalled(folder, signal.SIGSEGV)


def hang(folder: Path) -> Seen:
    """The engine's process stops, and answers nothing any more."""
    return _signalled(folder, signal.SIGSTOP)


def corrupt_blob(folder: Path) -> Seen:
    """The artifact's file is overwritten, then the process that has loaded it dies; later the file
    is mended."""
    with two_releases(folder) as runtime, Load(runtime) as load:
        active, engine = runtime.active, engine_of(runtime)
        assert active is not None
        path = active.bundle.path(active.artifact.blob)
        whole = path.read_bytes()
        load.forget()
        path.write_bytes(whole[:-9] + b"corrupted")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        load.until(lambda seen: seen.outcomes["previous"] > 5)
        path.write_bytes(whole)
        load.back()
    return load.seen


def out_of_memory(folder: Path) -> Seen:
    """A call needs more memory than the engine's process may have, beside calls that do not."""
    folder.mkdir(parents=True, exist_ok=True)
    limits = IsolationLimits(call_s=20.0, restart_s=0.1, memory_bytes=1 << 30)
    runtime = Runtime(RuntimeOptions(isolation=limits))
    runtime.activate(runtime.prepare(Bundle.open(_wide(folder / "2"))))
    with Load(runtime) as load:
        load.forget()
        failed = 0
        for _ in range(2):
            try:
                runtime.predict({"x": np.zeros((4096, 4), np.float32)})
            except SkerryError as error:
                failed += 1
                load.seen.outcomes[f"large call: {type(error).__name__}"] += 1
        assert failed == 2
        load.back()
    runtime.close()
    return load.seen


def clock_jump(folder: Path, jump: Callable[[float], None]) -> Seen:
    """The wall clock is set forward by a year and back by two, while a file keeps answers."""
    cache = CacheLimits(store=folder / "cache.db", store_bytes=200_000)
    with two_releases(folder, cache=cache) as runtime, Load(runtime) as load:
        load.forget()
        for seconds in (365 * 86400.0, -2 * 365 * 86400.0):
            jump(seconds)
            load.back()
    return load.seen


def full_disk(folder: Path, small: Path) -> Seen:
    """`small` is a disk that soon is full, on which answers are kept and a bundle is to be put."""
    cache = CacheLimits(store=small / "cache.db", store_bytes=64 << 20, window_calls=1 << 30)
    with two_releases(folder, cache=cache) as runtime, Load(runtime) as load:
        load.forget()
        (small / "ballast").write_bytes(b"")
        try:
            with (small / "ballast").open("wb") as file:
                while True:
                    file.write(b"\0" * 4096)
                    file.flush()
        except OSError:
            pass
        seen = load.seen.outcomes["active"]
        load.until(lambda now: now.outcomes["active"] > seen + 100)
        load.back()
    return load.seen


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes, mounted on `folder`.

    Raises:
        PermissionError: this process may not mount.
    """
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=%d" % size):
        raise PermissionError(ctypes.get_errno(), "cannot mount")
    try:
        yield folder
    finally:
        libc.umount2(bytes(folder), 2)


def _wide(path: Path) -> Path:
    """Version 2 of `linear`, by way of 131,072 columns: a row takes half a megabyte."""
    width, onnx_path = 131_072, path.parent / f".{path.name}.onnx"
    weight = np.zeros((width, 4), np.float32)
    bias = np.zeros(width, np.float32)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    weight[:3], bias[:3] = WEIGHT, BIAS + 2
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["in", "w", "b"], ["wide"], transB=1),
            helper.make_node("Slice", ["wide", "zero", "three", "one"], ["out"]),
        ],
        "wide",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(bias, "b"),
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([3], np.int64), "three"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), onnx_path)
    write_bundle(
        path,
        model="linear",
        version="2",
        inputs=[TensorSpec("x", "float32", (-1, 4))],
        outputs=[TensorSpec("y", "float32", (-1, 3))],
        artifacts=[
            ArtifactFile(
                path=onnx_path,
                format="onnx",
                precision="fp32",
                inputs=("in",),
                outputs=("out",),
                tolerance=Tolerance(1e-4),
                golden={"y": linear(x, BIAS + 2)},
            )
        ],
        golden_inputs={"x": x},
    )
    return path
