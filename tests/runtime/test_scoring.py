"""Scoring files and folders: whole or not at all, and on from where it was stopped."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import BIAS, linear, make_bundle
from fakes.disk import QuickDisk
from skerry.cli.main import main
from skerry.devices.errors import InputError, UnavailableError
from skerry.runtime.runtime import Runtime
from skerry.runtime.scorable import inputs_below, read_inputs
from skerry.runtime.scoring import ScoreLimits, Scorer

LIMITS = ScoreLimits(batch=4, part_rows=10)


def _rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def _source(tmp_path: Path, rows: int) -> Path:
    np.savez(tmp_path / "in.npz", x=_rows(rows))
    return tmp_path / "in.npz"


def _scorer(tmp_path: Path, **more: object) -> Scorer:
    bundle = tmp_path / "b"
    runtime = Runtime.open(bundle if bundle.exists() else make_bundle(bundle))
    return Scorer(runtime, LIMITS, QuickDisk() if "disk" not in more else more["disk"])  # type: ignore[arg-type]


class Stop(BaseException):
    pass


def _stopping(after: int) -> object:
    """What to be told of progress that stops at `after` rows."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done >= after:
            raise Stop

    return advance


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 50])
def test_a_file_is_scored_and_the_parts_are_gone(tmp_path: Path, rows: int) -> None:
    source, out = _source(tmp_path, rows), tmp_path / "out.npz"
    told: list[int] = []
    assert _scorer(tmp_path).score(source, out, told.append) == rows == sum(told)
    with np.load(out) as found:
        np.testing.assert_allclose(found["y"], linear(_rows(rows)), atol=1e-5)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"b", "in.npz", "out.npz"}
    assert _scorer(tmp_path).is_done(source, out)


@pytest.mark.parametrize("stop", range(4, 52, 4))
def test_stopped_anywhere_it_goes_on_and_gives_the_same_bytes(tmp_path: Path, stop: int) -> None:
    source, out, whole = _source(tmp_path, 50), tmp_path / "out.npz", tmp_path / "whole.npz"
    _scorer(tmp_path).score(source, whole, lambda count: None)
    with pytest.raises(Stop):
        _scorer(tmp_path).score(source, out, _stopping(stop))  # type: ignore[arg-type]
    assert not out.exists()
    now = _scorer(tmp_path).score(source, out, lambda count: None)
    assert now == 50 - (stop - 1) // 8 * 8
    assert out.read_bytes() == whole.read_bytes()


def test_parts_of_another_input_bundle_or_batch_are_not_used(tmp_path: Path) -> None:
    source, out = _source(tmp_path, 50), tmp_path / "out.npz"
    with pytest.raises(Stop):
        _scorer(tmp_path).score(source, out, _stopping(30))  # type: ignore[arg-type]
    np.savez(source, x=_rows(50, 1))
    assert _scorer(tmp_path).score(source, out, lambda count: None) == 50
    with np.load(out) as found:
        np.testing.assert_allclose(found["y"], linear(_rows(50, 1)), atol=1e-5)
    other = Runtime.open(make_bundle(tmp_path / "c", version="2", shift=1.0))
    assert not Scorer(other, LIMITS).is_done(source, out)
    assert Scorer(other, LIMITS).score(source, out, lambda count: None) == 50
    with np.load(out) as found:
        np.testing.assert_allclose(found["y"], linear(_rows(50, 1), BIAS + 1), atol=1e-5)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    class Full(QuickDisk):
        left = 3

        def sync(self, file: object) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")

    source, out = _source(tmp_path, 50), tmp_path / "out.npz"
    with pytest.raises(UnavailableError, match="No space left"):
        _scorer(tmp_path, disk=Full()).score(source, out, lambda count: None)
    assert not out.exists()
    assert len(list((tmp_path / "out.npz.parts").iterdir())) == 3
    assert _scorer(tmp_path).score(source, out, lambda count: None) == 50 - 24


def test_killed_in_the_middle_the_command_goes_on(tmp_path: Path) -> None:
    rows = 200_000
    source, out, bundle = _source(tmp_path, rows), tmp_path / "o.npz", make_bundle(tmp_path / "b")
    words = ["predict", str(bundle), str(source), "--out", str(out), "--batch", "2", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "skerry.cli.main", *words])
    parts = tmp_path / "o.npz.parts"
    latest = time.monotonic() + 60
    while not (parts.is_dir() and any(p.suffix == ".npz" for p in parts.iterdir())):
        assert process.poll() is None
        assert time.monotonic() < latest
    process.kill()
    process.wait()
    assert not out.exists()
    again = subprocess.run(
        [sys.executable, "-m", "skerry.cli.main", *words], capture_output=True, check=True
    )
    document = json.loads(again.stdout)
    assert document["rows"] == rows > document["rows_now"]
    with np.load(out) as found:
        np.testing.assert_allclose(found["y"], linear(_rows(rows)), atol=1e-5)
    assert not parts.exists()


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    source, bundle = _source(tmp_path, 400_000), make_bundle(tmp_path / "b")
    words = ["predict", str(bundle), str(source), "--out", str(tmp_path / "o.npz"), "--batch", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "skerry.cli.main", *words], stderr=subprocess.PIPE, text=True
    )
    parts = tmp_path / "o.npz.parts"
    latest = time.monotonic() + 60
    while not parts.is_dir():
        assert process.poll() is None
        assert time.monotonic() < latest
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in told
    assert "Traceback" not in told


def test_a_folder_is_scored_once_and_what_cannot_be_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, bundle = tmp_path / "in", tmp_path / "out", str(make_bundle(tmp_path / "b"))
    (folder / "deep").mkdir(parents=True)
    np.savez(folder / "a.npz", x=_rows(3, 1))
    np.save(folder / "deep" / "b.npy", _rows(5, 2))
    (folder / "notes.txt").write_text("not an input")
    words = ["predict", bundle, str(folder), "--out", str(out), "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["files"], first["files_done_before"], first["rows_now"]) == (2, 0, 8)
    with np.load(out / "deep" / "b.npz") as found:
        np.testing.assert_allclose(found["y"], linear(_rows(5, 2)), atol=1e-5)
    (folder / "c.npz").write_bytes(b"noise")
    np.savez(folder / "d.npz", x=_rows(2, 3))
    assert main(words) == 2
    captured = capsys.readouterr()
    second = json.loads(captured.out)
    assert (second["files_done_before"], second["rows_now"]) == (2, 2)
    assert list(second["failed"]) == ["c.npz"]
    assert "1 of 4 files not scored" in captured.err
    assert main([*words[:3], "--out", str(folder / "x")]) == 2
    assert main(["predict", bundle, str(tmp_path / "b" / "blobs"), "--out", str(out)]) == 2


def test_unfinished_and_hidden_files_are_no_inputs(tmp_path: Path) -> None:
    for name in ("a.npz", ".b.npz", "c.npz.parts/0.npz", "d.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [path.name for path in inputs_below(tmp_path)] == ["a.npz"]


def test_an_npy_needs_a_model_of_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _rows(3))
    assert read_inputs(tmp_path / "a.npy", ["x"])["x"].shape == (3, 4)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_inputs(tmp_path / "a.npy", ["x", "z"])


@pytest.mark.parametrize("comment", [b"", b"{}", b"\xff", b'{"manifest": 1}'])
def test_an_output_of_somebody_else_is_not_ours(tmp_path: Path, comment: bytes) -> None:
    source, out = _source(tmp_path, 3), tmp_path / "out.npz"
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = comment
    assert not _scorer(tmp_path).is_done(source, out)


def test_a_file_that_is_done_is_not_scored_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, bundle = _source(tmp_path, 5), tmp_path / "o.npz", make_bundle(tmp_path / "b")
    words = ["predict", str(bundle), str(source), "--out", str(out), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["rows_now"] == 5
    first = out.stat()
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rows"], document["rows_now"]) == (5, 0)
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("x.npz", "x.npz"),
        ("x.npz", "link.npz"),
        ("link.npz", "x.npz"),
        ("y.npz.parts/000000000000.npz", "y.npz"),
        ("nest/in", "nest"),
        ("nest/in", "again"),
    ],
)
def test_no_output_takes_the_place_of_an_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, out: str
) -> None:
    inputs = [
        tmp_path / name
        for name in (
            "x.npz",
            "y.npz.parts/000000000000.npz",
            "nest/in/a.npz",
            "nest/in/in/a.npz",
        )
    ]
    for path in inputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, x=_rows(3))
    (tmp_path / "link.npz").symlink_to("x.npz")
    (tmp_path / "again").symlink_to("nest")
    before = [path.read_bytes() for path in inputs]
    there = sorted(tmp_path.rglob("*"))
    bundle = make_bundle(tmp_path.parent / f"{tmp_path.name}.b")
    assert main(["predict", str(bundle), str(tmp_path / given), "--out", str(tmp_path / out)]) == 2
    assert "would take the place of the input" in capsys.readouterr().err
    assert [path.read_bytes() for path in inputs] == before
    assert sorted(tmp_path.rglob("*")) == there


def test_two_inputs_of_one_output_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    np.savez(folder / "a.npz", x=_rows(3))
    np.save(folder / "a.npy", _rows(2))
    words = ["predict", str(make_bundle(tmp_path / "b")), str(folder), "--out", str(out)]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "a.npz and" in told or "a.npy and" in told
    assert "a.npy" in told
    assert "rename one" in told
    assert not out.exists()


def _spoil(folder: Path) -> set[str]:
    """Put one file of each kind of damage into `folder`, and a good one before and after them."""
    folder.mkdir()
    np.savez(folder / "a_good.npz", x=_rows(3))
    np.savez(folder / "z_good.npz", x=_rows(4))
    np.savez_compressed(folder / "flipped.npz", x=_rows(500))
    data = bytearray((folder / "flipped.npz").read_bytes())
    data[200:260] = bytes(byte ^ 0x5A for byte in data[200:260])
    (folder / "flipped.npz").write_bytes(data)
    np.save(folder / "other.npy", _rows(3))
    (folder / "other.npy").rename(folder / "other.npz")
    huge = _header("<f4", (10**12, 4))
    (folder / "huge.npy").write_bytes(huge)
    (folder / "negative.npy").write_bytes(_header("<f4", (-1,)) + bytes(16))
    (folder / "unclosed.npy").write_bytes(huge.replace(b"}", b" "))
    (folder / "nothing.npy").write_bytes(_header("<U0", (10**12, 4)))
    (folder / "long_header.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{")
    for name, how in (("bomb", zipfile.ZIP_DEFLATED), ("lzma", zipfile.ZIP_LZMA)):
        with zipfile.ZipFile(folder / f"{name}.npz", "w", how) as archive:
            archive.writestr("x.npy", huge)
    (folder / "loop.npz").symlink_to("loop.npz")
    os.mkfifo(folder / "fifo.npz")
    return {path.name for path in folder.iterdir() if "good" not in path.name}


def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def test_bad_files_are_told_and_the_rest_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    bad = _spoil(folder)
    words = ["predict", str(make_bundle(tmp_path / "b")), str(folder), "--out", str(out)]
    for before in (0, 2):
        assert main([*words, "--json"]) == 2
        document = json.loads(capsys.readouterr().out)
        assert document["failed"].keys() == bad
        assert document["files_done_before"] == before
    assert "would be 16000000000000 bytes" in document["failed"]["huge.npy"]
    assert "would be 16000000000000 bytes" in document["failed"]["bomb.npz"]
    assert {path.name for path in out.iterdir()} == {"a_good.npz", "z_good.npz"}


def test_an_input_that_has_become_unreadable_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in "abc":
        np.savez(folder / f"{name}.npz", x=_rows(3))
    words = ["predict", str(make_bundle(tmp_path / "b")), str(folder), "--out", str(out), "--json"]
    assert main(words) == 0
    capsys.readouterr()
    (folder / "b.npz").unlink()
    (folder / "b.npz").symlink_to("b.npz")
    assert main(words) == 2
    document = json.loads(capsys.readouterr().out)
    assert list(document["failed"]) == ["b.npz"]
    assert "cannot be read" in document["failed"]["b.npz"]
    assert document["files_done_before"] == 2


@pytest.mark.parametrize(
    ("given", "out", "code", "told"),
    [
        ("in", "in/a.npz/x", 2, "lies in the folder"),
        ("in", "file", 2, "a file lies where a folder is needed; give another --out"),
        ("in", "file/below", 2, "a file lies where a folder is needed; give another --out"),
        ("in/a.npz", "file/o.npz", 2, "a file lies where a folder is needed"),
        ("in/a.npz", "in", 2, "is a folder; give the name of a file"),
        ("in/a.npz", ".", 2, "is a folder; give the name of a file"),
        ("in", "n" * 300, 5, "check the folder and its rights"),
        ("in/a.npz", f"{'n' * 300}/o.npz", 5, "check the folder and its rights"),
    ],
)
def test_an_output_that_cannot_be_is_told_with_its_remedy(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    out: str,
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("file").touch()
    np.savez("in/a.npz", x=_rows(3))
    assert main(["predict", str(make_bundle(Path("b"))), given, "--out", out]) == code
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


def test_an_output_that_cannot_be_written_ends_the_run_and_what_was_done_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    long = "b" * 250  # a name that leaves no room for the temporary one beside it
    for name in ("a", long, "c"):
        np.savez(folder / f"{name}.npz", x=_rows(3))
    words = ["predict", str(make_bundle(tmp_path / "b")), str(folder), "--out", str(out), "--json"]
    assert main(words) == 5
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["rows_now"], list(document["failed"])) == (3, [f"{long}.npz"])
    assert "check the folder and its rights" in captured.err
    assert {path.name for path in out.iterdir()} == {"a.npz"}


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    source, out = _source(tmp_path, 50), tmp_path / "out.npz"
    with pytest.raises(Stop):
        _scorer(tmp_path).score(source, out, _stopping(30))  # type: ignore[arg-type]
    part = tmp_path / "out.npz.parts" / "000000000008.npz"
    data = bytearray(part.read_bytes())
    data[180] ^= 1
    part.write_bytes(data)
    with pytest.raises(InputError, match=r"000000000008\.npz.*remove it"):
        _scorer(tmp_path).score(source, out, lambda count: None)
    part.unlink()
    assert _scorer(tmp_path).score(source, out, lambda count: None) == 8
