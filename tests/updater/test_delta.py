"""A patch leads from one file to the other exactly, or is refused."""

import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from skerry.devices.digest import digest_file
from skerry.devices.errors import (
    BundleError,
    CancelledError,
    DigestMismatch,
    InputError,
    SkerryError,
)
from skerry.updater.delta import Checkpoint, apply, chain, create, stat


def _files(tmp_path: Path, old: bytes, new: bytes) -> tuple[Path, Path, Path]:
    a, b, p = tmp_path / "old", tmp_path / "new", tmp_path / "patch"
    a.write_bytes(old)
    b.write_bytes(new)
    return a, b, p


def _there(tmp_path: Path, old: bytes, new: bytes) -> bytes:
    a, b, p = _files(tmp_path, old, new)
    found = create(a, b, p)
    assert found.patch_size == p.stat().st_size == sum(part.bytes for part in found.parts)
    apply(a, p, tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == new
    return p.read_bytes()


def _random(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"", b""),
        (b"abc", b""),
        (b"", b"abc"),
        (b"abc" * 500, b"abc" * 500),
        (_random(1, 50_000), _random(1, 20_000) + b"put in" + _random(1, 50_000)[20_000:]),
        (_random(2, 3_000), _random(3, 4_000)),
        (bytes(9_000_000), bytes(5_000_000) + b"x" + bytes(4_500_000)),
    ],
    ids=["empty", "to-empty", "from-empty", "same", "insert", "unrelated", "large"],
)
def test_any_two_files(tmp_path: Path, old: bytes, new: bytes) -> None:
    _there(tmp_path, old, new)


def test_nothing_costs_nearly_nothing(tmp_path: Path) -> None:
    assert len(_there(tmp_path, _random(1, 1000), b"")) == 2
    assert len(_there(tmp_path, _random(1, 100_000), _random(1, 100_000))) <= 24


def test_a_wrong_base_is_refused(tmp_path: Path) -> None:
    _there(tmp_path, _random(1, 5000), _random(1, 4000) + b"!" * 99)
    (tmp_path / "old").write_bytes(_random(4, 5000))
    (tmp_path / "made").unlink()
    with pytest.raises(DigestMismatch, match="not the base"):
        apply(tmp_path / "old", tmp_path / "patch", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    package = tmp_path / "model.mlpackage"
    package.mkdir()
    with pytest.raises(InputError, match="is a folder") as refused:
        create(package, package, tmp_path / "patch")
    assert "tar" in str(refused.value)
    assert not (tmp_path / "patch").exists()


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    a, b, p = _files(tmp_path, _random(1, 900), _random(2, 900))
    (tmp_path / "link").symlink_to(a)
    for out in (a, b, tmp_path / "link"):
        with pytest.raises(InputError, match="would be overwritten"):
            create(a, b, out)
    create(a, b, p)
    kept = p.read_bytes()
    with pytest.raises(InputError, match="patch file itself"):
        apply(a, p, p)
    for out in (tmp_path, Path()):
        with pytest.raises(InputError, match="name a file"):
            apply(a, p, out)
        with pytest.raises(InputError, match="name a file"):
            create(a, b, out)
    assert (a.read_bytes(), b.read_bytes()) == (_random(1, 900), _random(2, 900))
    assert p.read_bytes() == kept
    apply(a, p, a)
    assert a.read_bytes() == b.read_bytes()


def test_what_is_kept_is_cleared_and_nothing_beside_it(tmp_path: Path) -> None:
    a, b, p = _files(tmp_path, _random(1, 900), _random(2, 900))
    old = a.rename(tmp_path / "model.onnx")
    create(old, b, p)
    apply(old, p, tmp_path / "made", work=tmp_path / "model")
    assert old.read_bytes() == _random(1, 900)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "new", "patch", "made"}


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    patch = _there(tmp_path, _random(1, 5000), _random(1, 4000) + b"!" * 99 + _random(9, 30))
    (tmp_path / "made").unlink()
    for bit in range(8 * len(patch)):
        bad = bytearray(patch)
        bad[bit // 8] ^= 1 << bit % 8
        (tmp_path / "patch").write_bytes(bad)
        with pytest.raises(SkerryError):
            apply(tmp_path / "old", tmp_path / "patch", tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "patch"]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    patch = _there(tmp_path, _random(1, 5000), _random(1, 4000) + b"!" * 99 + _random(9, 30))
    (tmp_path / "made").unlink()
    for size in range(len(patch)):
        (tmp_path / "patch").write_bytes(patch[:size])
        with pytest.raises(BundleError):
            apply(tmp_path / "old", tmp_path / "patch", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_it_says_how_far_it_is_and_can_be_stopped(tmp_path: Path) -> None:
    old, new = _random(1, 100_000), bytes(9_000_000)
    _there(tmp_path, old, new)
    seen: list[Checkpoint] = []
    paths = tmp_path / "old", tmp_path / "patch", tmp_path / "made"
    apply(*paths, reached=seen.append)
    assert seen[-1].new_bytes == len(new)
    assert seen[-1].patch_offset + 16 == stat(paths[1]).patch_size
    paths[2].unlink()
    with pytest.raises(CancelledError):
        apply(*paths, cancelled=lambda: True)
    assert not paths[2].exists()


def _tensor(seed: int, moves: int) -> bytes:
    """13 MB of weights as a safetensors file, moved a number of times: three segments."""
    draw = np.random.default_rng(seed)
    weights = draw.integers(-100, 100, (3250, 4000), np.int8)
    for _ in range(moves):
        weights += draw.random(weights.shape, np.float32) < 0.1
    return save({"w": weights})


def _large(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base, a new file and a patch of three segments."""
    a, b, p = _files(tmp_path, _tensor(1, 0), _tensor(1, 1))
    create(a, b, p)
    return a, b, p


def test_an_application_that_was_stopped_is_gone_on_from(tmp_path: Path) -> None:
    a, b, p = _large(tmp_path)
    made, work, first = tmp_path / "made", tmp_path / "work", list[Checkpoint]()
    with pytest.raises(CancelledError):
        apply(a, p, made, work=work, reached=first.append, cancelled=lambda: len(first) == 2)
    assert not made.exists()
    later: list[Checkpoint] = []
    apply(a, p, made, work=work, reached=later.append)
    assert made.read_bytes() == b.read_bytes()
    assert later[0].segments == 3, "the first two were not made again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "new", "old", "patch"]


@pytest.mark.parametrize("harm", ["made", "longer", "place", "patch", "base"])
def test_only_what_was_verified_is_gone_on_from(tmp_path: Path, harm: str) -> None:
    a, b, p = _large(tmp_path)
    made, work, first = tmp_path / "made", tmp_path / "work", list[Checkpoint]()
    with pytest.raises(CancelledError):
        apply(a, p, made, work=work, reached=first.append, cancelled=lambda: len(first) == 2)
    part, at = tmp_path / "work.0.part", tmp_path / "work.at"
    match harm:
        case "made":
            part.write_bytes(b"?" + part.read_bytes()[1:])
        case "longer":
            part.write_bytes(part.read_bytes() + b"a torn write")
        case "place":
            at.write_bytes(at.read_bytes()[:40])
        case "patch":
            b.write_bytes(_tensor(1, 2))
            create(a, b, p)
        case _:
            a.write_bytes(_tensor(1, 2))
            create(a, b, p)
    apply(a, p, made, work=work)
    assert made.read_bytes() == b.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "new", "old", "patch"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from skerry.updater.delta import apply
old, patch, made, work = map(Path, sys.argv[1:5])
seen = []
def reached(checkpoint):
    seen.append(checkpoint)
    if len(seen) == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
apply(old, patch, made, work=work, reached=reached)
"""


def test_it_survives_being_killed_after_every_segment(tmp_path: Path) -> None:
    a, b, p = _large(tmp_path)
    paths = [str(tmp_path / name) for name in ("old", "patch", "made", "work")]
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", _KILLED, *paths, "1"])
        assert done.returncode == -signal.SIGKILL
        assert not (tmp_path / "made").exists()
    later: list[Checkpoint] = []
    apply(a, p, tmp_path / "made", work=tmp_path / "work", reached=later.append)
    assert (tmp_path / "made").read_bytes() == b.read_bytes()
    assert later[0].segments == 3


def test_a_chain_does_what_its_patches_do(tmp_path: Path) -> None:
    versions = [_random(1, 30_000) + str(n).encode() * 40 * n for n in range(5)]
    paths = [tmp_path / f"version {n}" for n in range(5)]
    for path, data in zip(paths, versions, strict=True):
        path.write_bytes(data)
    steps = [tmp_path / f"step {n}" for n in range(4)]
    for (before, after), step in zip(pairwise(paths), steps, strict=True):
        create(before, after, step)
    half, whole, made = tmp_path / "half", tmp_path / "whole", tmp_path / "made"
    chain(steps[:2], digest_file(paths[2]).digest, half)
    size = chain([half, *steps[2:]], digest_file(paths[4]).digest, whole)
    found = stat(whole)
    assert size == whole.stat().st_size == sum(part.bytes for part in found.parts)
    assert sum(part.method == "chain" for part in found.parts) == 4
    apply(paths[0], whole, made)
    assert made.read_bytes() == versions[4]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    with pytest.raises(DigestMismatch):
        apply(paths[1], whole, made)
    with pytest.raises(BundleError, match="does not follow"):
        chain([steps[0], steps[2]], digest_file(paths[3]).digest, half)
    with pytest.raises(BundleError, match="10 patches"):
        chain([whole, whole, *steps[:2]], digest_file(paths[4]).digest, half)


def test_a_chain_is_gone_on_from_within_any_of_its_patches(tmp_path: Path) -> None:
    paths = [tmp_path / f"version {n}" for n in range(3)]
    for n, path in enumerate(paths):
        path.write_bytes(_tensor(1, n))
    steps = [tmp_path / "first", tmp_path / "second"]
    for (before, after), step in zip(pairwise(paths), steps, strict=True):
        create(before, after, step)
    whole, made, work = tmp_path / "whole", tmp_path / "made", tmp_path / "work"
    chain(steps, digest_file(paths[2]).digest, whole)
    before = sorted(tmp_path.iterdir())
    seen: list[Checkpoint] = []
    apply(paths[0], whole, made, reached=seen.append)
    for stop in (1, len(seen) - 1):
        made.unlink()
        count: list[Checkpoint] = []
        with pytest.raises(CancelledError):
            apply(
                paths[0],
                whole,
                made,
                work=work,
                reached=count.append,
                cancelled=lambda count=count, stop=stop: len(count) == stop,
            )
            raise CancelledError("it was over before")
        later: list[Checkpoint] = []
        apply(paths[0], whole, made, work=work, reached=later.append)
        assert made.read_bytes() == paths[2].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted([*before, made])
