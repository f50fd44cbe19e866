"""The output folder: one writer, nothing unfinished, and the pieces of one conversion alone."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.cli.main import main
from skerry.converter.cache import Cache
from skerry.converter.folder import RESULT, only_writer, publish, staging
from skerry.devices.errors import ExitCode, InputError, UnavailableError
from skerry.devices.files import RealDisk, cannot_write

_PIECES = ("artifacts/a", "bundle/b", "model/c", "report.html", RESULT)
_HOLD = """
import sys
from pathlib import Path
from skerry.converter.folder import only_writer, staging
with only_writer(Path(sys.argv[1])), staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("written")
    print("held", flush=True)
    sys.stdin.read()
"""


def fill(folder: Path, word: str, pieces: tuple[str, ...] = _PIECES) -> None:
    for name in pieces:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(word)


def words(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in _PIECES if (folder / name).exists()}


class Breaking(RealDisk):
    """Renames so many times and then fails, once or for good as where the process is killed."""

    def __init__(self, renames: int, *, for_good: bool) -> None:
        self.left, self.for_good = renames, for_good

    def replace(self, source: Path, target: Path) -> None:
        self.left -= 1
        if self.left == -1 or (self.left < 0 and self.for_good):
            raise OSError(errno.EIO, "broken")
        super().replace(source, target)


def test_a_folder_has_one_writer_until_that_one_is_gone_or_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert held.stdout is not None and held.stdout.readline() == b"held\n"
        with pytest.raises(UnavailableError, match="another conversion is writing"):
            only_writer(out).__enter__()
    finally:
        held.kill()
        held.communicate()
    assert list(out.glob(".staging-*"))
    with only_writer(out):
        assert [path.name for path in out.iterdir()] == [".lock"]
        with pytest.raises(UnavailableError), only_writer(out):
            pass
    assert out.is_dir() and not list(out.iterdir())
    out.rmdir()
    with only_writer(out):
        assert out.is_dir()
    assert not out.exists()  # made for nothing
    with only_writer(out):
        (out / "kept").write_text("")
    assert [path.name for path in out.iterdir()] == ["kept"]
    with pytest.raises(InputError, match="is a file"), only_writer(out / "kept"):
        pass


@pytest.mark.parametrize("before", [(), ("model/c",), _PIECES])
def test_pieces_are_exchanged_all_or_none(before: tuple[str, ...], tmp_path: Path) -> None:
    renames = 0
    while True:
        out = tmp_path / f"failed-{renames}"
        out.mkdir()
        fill(out, "old", before)
        try:
            with staging(out) as folder:
                fill(folder / "ready", "new")
                publish(folder / "ready", out, Breaking(renames, for_good=False))
        except UnavailableError:
            assert words(out) == dict.fromkeys(before, "old")
            assert not list(out.glob(".*"))
        else:
            break
        renames += 1
    assert words(out) == dict.fromkeys(_PIECES, "new") and not list(out.glob(".*"))

    for killed in range(1, renames):  # at the first, nothing was finished yet
        out = tmp_path / f"killed-{killed}"
        out.mkdir()
        fill(out, "old", before)
        folder = out / ".staging-left"
        fill(folder / "ready", "new")
        with pytest.raises(OSError):
            publish(folder / "ready", out, Breaking(killed, for_good=True))
        found = words(out)
        assert RESULT not in found or set(found.values()) == {"old"}
        with only_writer(out):
            assert words(out) == dict.fromkeys(_PIECES, "new")
            assert [path.name for path in out.glob(".*")] == [".lock"]


def test_only_a_full_disk_wants_space() -> None:
    full = cannot_write(OSError(errno.ENOSPC, "No space left on device"), "out")
    assert "free some space" in (full.remedy or "")
    other = cannot_write(OSError(errno.EXDEV, "Invalid cross-device link"), "out")
    assert "space" not in str(other) and other.remedy


@pytest.mark.parametrize("command", ["convert", "train", "search"])
def test_a_second_command_in_the_folder_is_told_so(
    project: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = project / "recipe.toml", project / "out"
    space = '[search.space]\n"quantize.calibrator" = ["mse", "minmax"]\n'
    recipe.write_text(recipe.read_text() + space)
    with only_writer(out):
        assert main([command, str(recipe), "--out", str(out)]) == ExitCode.UNAVAILABLE
        assert "another conversion is writing here" in capsys.readouterr().err
        assert [path.name for path in out.iterdir()] == [".lock"]


def test_locks_of_makers_that_failed_are_forgotten(tmp_path: Path) -> None:
    kept = Cache(tmp_path)

    def fail(folder: Path) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        kept.entry(["failed"], fail)
    used, _ = kept.entry(["used"], lambda folder: None)
    assert list(tmp_path.glob("*.lock"))
    kept.forget_unused()
    assert list(tmp_path.iterdir()) == [used]
