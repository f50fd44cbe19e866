"""Threads, affinity, power modes and execution providers."""

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import linear, make_onnx
from skerry.devices.cpus import Cpu, Cpus
from skerry.devices.errors import InputError, UnsupportedError
from skerry.runtime.commands.engines import (
    add_engine_arguments,
    choices_path,
    engine_of,
    parse_cpus,
)
from skerry.runtime.engine.base import EngineOptions
from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits
from skerry.runtime.engine.select import available_providers, open_engine
from skerry.runtime.power import PowerMode, engine_options

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
BIG, LITTLE = [Cpu(n, 1024) for n in (4, 5)], [Cpu(n, 446) for n in (0, 1, 2, 3)]
ALIKE = Cpus(tuple(Cpu(n) for n in range(4)))


@pytest.mark.parametrize(
    ("mode", "cpus", "threads", "on"),
    [
        ("balanced", ALIKE, 1, ()),
        ("latency", ALIKE, 4, (0, 1, 2, 3)),
        ("latency", Cpus(ALIKE.cpus, 1.5), 2, (0, 1, 2, 3)),
        ("latency", Cpus(tuple(LITTLE + BIG)), 2, (4, 5)),
        ("frugal", ALIKE, 1, (3,)),
        ("frugal", Cpus(tuple(LITTLE + BIG)), 1, (0, 1, 2, 3)),
        ("frugal", Cpus((Cpu(7),)), 1, (7,)),
    ],
)
def test_a_power_mode_keeps_affinity_quota_and_kind_of_cpu(
    mode: PowerMode, cpus: Cpus, threads: int, on: tuple[int, ...]
) -> None:
    assert engine_options(mode, cpus) == EngineOptions(threads=threads, cpus=on)


_TELL = """
import os, sys
from pathlib import Path
import numpy as np
from skerry.runtime.engine.base import EngineOptions
from skerry.runtime.engine.select import open_engine
before = set(os.listdir("/proc/self/task"))
own = os.sched_getaffinity(0)
cpu = max(own)
engine = open_engine(sys.argv[1], Path(sys.argv[2]), EngineOptions(threads=3, cpus=(cpu,)))
rows = np.ones((64, 4), np.float32)
engine.run({engine.inputs[0].name: rows})
made = set(os.listdir("/proc/self/task")) - before
print(len(made), all(os.sched_getaffinity(int(task)) == {cpu} for task in made))
print(os.sched_getaffinity(0) == own)
"""


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_an_engines_own_threads_stay_on_its_cpus_and_the_callers_does_not(
    tmp_path: Path, kind: str
) -> None:
    tflite = Path(__file__).parent / "data" / "linear.tflite"
    path = make_onnx(tmp_path / "m.onnx") if kind == "onnx" else tflite
    command = [sys.executable, "-c", _TELL, kind, str(path)]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    made, own = output.splitlines()[-2:]
    assert re.fullmatch(r"[2-9]\d* True", made)
    assert own == "True"


def test_a_cpu_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path, foreign = make_onnx(tmp_path / "m.onnx"), max(os.sched_getaffinity(0)) + 1
    for make in (open_engine, lambda *words: IsolatedEngine(*words, IsolationLimits())):
        with pytest.raises(InputError, match=f"CPU {foreign} is not one"):
            make("onnx", path, EngineOptions(cpus=(foreign,)))


def test_an_isolated_engine_is_pinned_whole(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    options = EngineOptions(threads=2, cpus=(cpu,))
    engine = IsolatedEngine("onnx", make_onnx(tmp_path / "m.onnx"), options, IsolationLimits())
    np.testing.assert_allclose(engine.run({"in": X})["out"], linear(X), atol=1e-5)
    tasks = [int(task) for task in os.listdir(f"/proc/{engine.pid}/task")]
    # numpy's own threads are made before the engine is known.
    assert os.sched_getaffinity(engine.pid or 0) == {cpu}
    assert sum(os.sched_getaffinity(task) == {cpu} for task in tasks) >= 2
    engine.close()


def test_providers_that_are_not_here_are_refused_by_name(tmp_path: Path) -> None:
    path = make_onnx(tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="'NoSuchExecutionProvider'"):
        open_engine("onnx", path, EngineOptions(providers=("NoSuchExecutionProvider",)))
    assert not {"CPUExecutionProvider", "AzureExecutionProvider"} & set(available_providers())


def test_every_provider_of_this_build_runs_or_is_refused(tmp_path: Path) -> None:
    path = make_onnx(tmp_path / "m.onnx")
    for provider in available_providers():
        try:
            engine = open_engine("onnx", path, EngineOptions(providers=(provider,)))
        except UnsupportedError:
            continue
        assert provider.removesuffix("ExecutionProvider") in engine.name
        np.testing.assert_allclose(engine.run({"in": X})["out"], linear(X), atol=1e-2)
        engine.close()


def _parsed(*words: str) -> EngineOptions:
    parser = ArgumentParser()
    add_engine_arguments(parser)
    return engine_of(parser.parse_args(words))


def test_the_command_line_says_it_all() -> None:
    assert _parsed() == EngineOptions()
    found = _parsed("--power", "latency", "--threads", "7", "--cpus", "0", "--provider", "P")
    assert found == EngineOptions(threads=7, cpus=(0,), providers=("P",))
    with pytest.raises(InputError, match="--threads"):
        _parsed("--threads", "0")


@pytest.mark.parametrize(("text", "cpus"), [("0", (0,)), ("3,0-1", (0, 1, 3)), ("2-2", (2,))])
def test_lists_of_cpus(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0-99999999", "1,,2", "²"])
def test_what_is_no_list_of_cpus(text: str) -> None:
    with pytest.raises(InputError, match="no list of CPUs"):
        parse_cpus(text)


def test_choices_are_kept_where_systemd_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    assert choices_path() == Path("/var/lib/a/measured.json")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert choices_path() == Path("/s/skerry/measured.json")
