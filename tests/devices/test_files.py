import os
from pathlib import Path

import pytest

from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import confined, replacing, write_atomically


def test_an_error_inside_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "slots.json"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["slots.json"]


def test_the_mode_is_the_one_asked_for(tmp_path: Path) -> None:
    write_atomically(tmp_path / "key.pem", b"secret", mode=0o600)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="check the folder"):
        write_atomically(tmp_path / "gone" / "file", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    class FullDisk:
        def write(self, file: object, data: bytes) -> None:
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(data)

    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(UnavailableError, match="free some space"), replacing(path) as file:
        FullDisk().write(file, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../../up", "a\0b", "a\\b"])
def test_names_that_leave_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        confined(tmp_path, name)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="link"):
        confined(tmp_path / "in", "link/x")
    assert confined(tmp_path / "in", "a/b") == tmp_path / "in" / "a" / "b"
