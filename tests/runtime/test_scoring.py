"""Scoring files and folders: whole or not at all, and on from where it was stopped."""

import json
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
from skerry.runtime.scoring import ScoreLimits, Scorer, inputs_below, read_inputs

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
