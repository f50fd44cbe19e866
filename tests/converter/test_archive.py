"""A folder as one tar: read by others, the same bytes for the same content, no padding."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from skerry.converter.archive import pack_folder

_BLOCK = 512


def _folder(path: Path) -> Path:
    (path / "inner/deep").mkdir(parents=True)
    (path / "inner/deep/weights.bin").write_bytes(bytes(range(256)) * 5)
    (path / "spec").write_bytes(b"x" * _BLOCK)
    (path / "empty").write_bytes(b"")
    return path


def test_others_read_it_to_its_end(tmp_path: Path) -> None:
    folder, tar, out = _folder(tmp_path / "model"), tmp_path / "model.tar", tmp_path / "out"
    pack_folder(folder, tar)
    out.mkdir()
    subprocess.run(["tar", "--extract", "-C", str(out), "-f", str(tar)], check=True)
    found = {path.relative_to(out) for path in out.rglob("*")}
    assert found == {path.relative_to(folder) for path in folder.rglob("*")}
    for path in folder.rglob("*"):
        if path.is_file():
            assert (out / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_it_ends_with_two_empty_blocks_and_no_more(tmp_path: Path) -> None:
    tar = tmp_path / "model.tar"
    pack_folder(_folder(tmp_path / "model"), tar)
    entries, blocks_of_data = 5, 3 + 1
    assert tar.stat().st_size == _BLOCK * (entries + blocks_of_data + 2)


def test_its_bytes_are_those_of_names_and_contents(tmp_path: Path) -> None:
    pack_folder(_folder(tmp_path / "one"), tmp_path / "one.tar")
    other = _folder(tmp_path / "other")
    for path in other.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 1))
    pack_folder(other, tmp_path / "other.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()
