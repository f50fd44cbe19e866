"""The power fails at every single operation of an update; see `power.py` for what is asked then."""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fakes.disk import CuttableDisk, PowerCut
from skerry.devices.files import write_atomically


def _load(name: str) -> ModuleType:
    """A module that lies beside this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


power = _load("power")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small files are made and removed."""
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix="skerry-power-", dir=base) as name:
        yield Path(name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", power.SCENARIOS, ids=lambda kind: kind.name)
def test_a_cut_at_every_operation(
    kind: type, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = 4 if kind.sealed else 1  # all of them in `make soak`
    for after, step in (("lost", every), ("kept", 8), ("torn", 8)):
        count = power.cut_everywhere(kind(folder / after), after, seed=7, step=step)
        assert count.cuts == count.survived >= count.operations // step
        with capsys.disabled():
            print(f"\n{count}, unsynced {after}", end="")


@pytest.mark.slow
def test_a_second_cut_while_it_recovers(folder: Path) -> None:
    for kind in power.SCENARIOS:
        count = power.cut_everywhere(kind(folder / kind.name), "torn", 11, twice=True, step=12)
        assert count.cuts == count.survived


# The disk itself: what it says it loses must be lost, or the tests above show nothing.


def _after(disk: CuttableDisk, after: str) -> dict[str, bytes]:
    import random

    disk.crash(after, random.Random(0))  # type: ignore[arg-type]
    return {path.name: path.read_bytes() for path in disk.root.iterdir()}


@pytest.mark.parametrize("cut", range(5))
def test_an_atomic_write_leaves_the_old_or_the_new(tmp_path: Path, cut: int) -> None:
    (tmp_path / "f").write_bytes(b"old")
    disk = CuttableDisk(tmp_path, cut_at=cut)
    if cut < 4:
        with pytest.raises(PowerCut):
            write_atomically(tmp_path / "f", b"new", disk=disk)
    else:
        write_atomically(tmp_path / "f", b"new", disk=disk)
    assert _after(disk, "lost")["f"] == (b"old" if cut < 4 else b"new")


def test_a_rename_without_syncing_its_folder_is_lost(tmp_path: Path) -> None:
    disk = CuttableDisk(tmp_path)
    with (tmp_path / "a").open("wb") as file:
        disk.write(file, b"data")
        disk.sync(file)
    disk.sync_folder(tmp_path)
    disk.replace(tmp_path / "a", tmp_path / "b")
    assert _after(disk, "lost") == {"a": b"data"}


def test_a_file_that_was_not_synced_is_empty(tmp_path: Path) -> None:
    disk = CuttableDisk(tmp_path)
    with (tmp_path / "a").open("wb") as file:
        disk.write(file, b"data")
    disk.sync_folder(tmp_path)
    assert _after(disk, "lost") == {"a": b""}


def test_an_unlink_without_syncing_its_folder_is_undone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"data")
    disk = CuttableDisk(tmp_path)
    disk.unlink(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"another, perhaps with the same inode number")
    assert _after(disk, "lost") == {"a": b"data"}


def test_a_folder_that_was_not_synced_is_gone_with_all_in_it(tmp_path: Path) -> None:
    disk = CuttableDisk(tmp_path)
    (tmp_path / "new").mkdir()
    write_atomically(tmp_path / "new" / "f", b"data", disk=disk)
    assert _after(disk, "lost") == {}


def test_nothing_runs_after_the_cut(tmp_path: Path) -> None:
    disk = CuttableDisk(tmp_path, cut_at=0)
    for _ in range(2):
        with pytest.raises(PowerCut):
            disk.unlink(tmp_path / "a")
