"""A patch leads from one file to the other exactly, or is refused."""

import random
from pathlib import Path

import pytest

from skerry.devices.errors import BundleError, CancelledError, DigestMismatch, SkerryError
from skerry.updater.delta import Checkpoint, apply, create, stat


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
