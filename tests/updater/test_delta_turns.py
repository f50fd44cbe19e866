"""One segment ahead: the same bytes as one after the other, errors in their turn, bounded."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from skerry.devices.cpus import Cpu, Cpus
from skerry.devices.errors import CancelledError, DigestMismatch
from skerry.updater.delta import apply, create, creating, turns


@pytest.fixture(params=[1, 2], ids=["one core", "two cores"])
def _cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, request.param)


def _use(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    cpus = Cpus(tuple(Cpu(number) for number in range(cores)))
    monkeypatch.setattr(turns, "usable_cpus", lambda: cpus)


def _write(path: Path, weights: np.ndarray) -> Path:
    """A safetensors file of one tensor."""
    header = (
        f'{{"w":{{"dtype":"I8","shape":[{len(weights)},{weights[0].size}],'
        f'"data_offsets":[0,{weights.size}]}}}}'
    )
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + weights.tobytes())
    return path


def _pair(folder: Path) -> tuple[Path, Path]:
    draw = np.random.default_rng(5)
    old = draw.integers(-100, 100, (512, 1024)).astype(np.int8)
    new = (old + draw.integers(-2, 3, old.shape)).astype(np.int8)
    new[200:300] = old[200:300]
    return _write(folder / "old", old), _write(folder / "new", new)


def test_both_ways_make_the_same_patch_and_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_SEGMENT_BYTES", 1 << 16)
    old, new = _pair(tmp_path)
    patches, checkpoints = [], []
    for cores in (1, 2):
        _use(monkeypatch, cores)
        create(old, new, tmp_path / "patch")
        patches.append((tmp_path / "patch").read_bytes())
        checkpoints.append(list[object]())
        apply(old, tmp_path / "patch", tmp_path / "made", reached=checkpoints[-1].append)
        assert (tmp_path / "made").read_bytes() == new.read_bytes()
    assert patches[0] == patches[1]
    assert checkpoints[0] == checkpoints[1]
    assert len(checkpoints[0]) >= 8


@pytest.mark.usefixtures("_cores")
def test_a_cancelled_patch_leaves_no_thread_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_SEGMENT_BYTES", 1 << 16)
    old, new = _pair(tmp_path)
    asked: list[None] = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > 3

    with pytest.raises(CancelledError):
        create(old, new, tmp_path / "patch", cancelled=cancelled)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    assert not any(thread.name.startswith("delta") for thread in threading.enumerate())


@pytest.mark.usefixtures("_cores")
def test_nothing_is_told_of_what_was_made_from_another_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_SEGMENT_BYTES", 1 << 16)
    old, new = _pair(tmp_path)
    create(old, new, tmp_path / "patch")
    other = bytearray(old.read_bytes())
    other[-1] ^= 1
    old.write_bytes(other)
    reached: list[object] = []
    with pytest.raises(DigestMismatch, match="not the base"):
        apply(old, tmp_path / "patch", tmp_path / "made", reached=reached.append)
    assert not reached
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "patch"]


@pytest.mark.usefixtures("_cores")
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order_and_jobs_only_as_there_is_room(count: int) -> None:
    asked: list[int] = []

    def jobs() -> Iterator[Callable[[], int]]:
        for number in range(count):
            asked.append(number)
            yield partial(int, number)

    for number, result in enumerate(turns.in_turn(jobs())):
        assert result == number
        assert len(asked) <= number + 2
    assert asked == list(range(count))


@pytest.mark.usefixtures("_cores")
def test_an_error_comes_in_its_turn() -> None:
    def fails() -> int:
        raise KeyError("third")

    jobs: list[Callable[[], int]] = [lambda: 0, lambda: 1, fails, lambda: 3]
    results = turns.in_turn(jobs)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="third"):
        next(results)


@pytest.mark.usefixtures("_cores")
def test_what_is_done_meanwhile_comes_before_every_result_and_its_error_before_all() -> None:
    done: list[str] = []

    def fails() -> int:
        raise KeyError("a job")

    def refuses() -> None:
        raise ValueError("meanwhile")

    results = turns.in_turn([lambda: 0, lambda: 1], partial(done.append, "meanwhile"))
    assert next(results) == 0
    assert done == ["meanwhile"]
    with pytest.raises(ValueError, match="meanwhile"):
        next(turns.in_turn([fails, fails], refuses))
