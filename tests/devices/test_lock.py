import os
from pathlib import Path

import pytest

from skerry.devices.errors import UnavailableError
from skerry.devices.lock import exclusive, is_held


def test_one_holds_it_and_whoever_cannot_have_it_is_told_why(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert not is_held(path)
    with exclusive(path):
        assert is_held(path)
        with (
            pytest.raises(UnavailableError, match=f"another server .*, process {os.getpid()}"),
            exclusive(path, "server"),
        ):
            pass
    assert not is_held(path)


def test_a_lock_that_cannot_be_made_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "no home" / "x.lock"
    assert not is_held(path)
    with pytest.raises(UnavailableError, match="cannot open"), exclusive(path):
        pass


def test_a_full_disk_keeps_nobody_from_a_lock() -> None:
    with exclusive(Path("/dev/full")):
        assert is_held(Path("/dev/full"))
