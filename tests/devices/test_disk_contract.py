"""What every `Disk` does while the power is on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.disk import CuttableDisk, QuickDisk
from skerry.devices.files import Disk, RealDisk, write_atomically

DISKS: list[Callable[[Path], Disk]] = [
    lambda root: RealDisk(),
    lambda root: QuickDisk(),
    CuttableDisk,
]


@pytest.fixture(params=DISKS, ids=["real", "quick", "cuttable"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    made: Disk = request.param(tmp_path)
    return made


def test_what_is_written_and_synced_can_be_read(disk: Disk, tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        disk.write(file, b"one ")
        disk.write(file, b"two")
        disk.sync(file)
        assert (tmp_path / "a").read_bytes() == b"one two"


def test_a_file_takes_the_place_of_another(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    disk.replace(tmp_path / "a", tmp_path / "b")
    disk.sync_folder(tmp_path)
    assert (tmp_path / "b").read_bytes() == b"new"
    assert not (tmp_path / "a").exists()
    with pytest.raises(FileNotFoundError):
        disk.replace(tmp_path / "a", tmp_path / "b")


def test_removing_what_is_gone_is_no_error(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    disk.unlink(tmp_path / "a")
    disk.unlink(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_atomic_write_goes_through(disk: Disk, tmp_path: Path) -> None:
    for data in (b"first", b"second"):
        write_atomically(tmp_path / "f", data, disk=disk)
        assert (tmp_path / "f").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
