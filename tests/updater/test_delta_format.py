"""Format v1 stays what docs/delta-format.md says, and what is damaged is refused."""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from skerry.devices.errors import BundleError, SkerryError
from skerry.updater.delta import Limits, apply, create
from updater import delta_reference, fuzz_delta

_GOLDEN = Path(__file__).parent.parent / "golden"
_VECTORS = {
    f"v{version}/{name}": digest
    for version in (1, 2)
    for name, digest in json.loads(
        (_GOLDEN / f"v{version}" / "delta" / "digests.json").read_text()
    ).items()
}


def _vector(name: str) -> tuple[Path, Path]:
    version, _, rest = name.partition("/")
    folder = _GOLDEN / version / "delta"
    return folder / f"{rest}.old", folder / f"{rest}.patch"


@pytest.mark.parametrize("name", sorted(_VECTORS))
def test_patches_of_every_version_open_forever(name: str, tmp_path: Path) -> None:
    apply(*_vector(name), tmp_path / "made")
    assert hashlib.sha256((tmp_path / "made").read_bytes()).hexdigest() == _VECTORS[name]


@pytest.mark.parametrize("name", sorted(_VECTORS))
def test_a_decoder_written_from_the_document_agrees(name: str) -> None:
    made = delta_reference.decode(*(path.read_bytes() for path in _vector(name)))
    assert hashlib.sha256(made).hexdigest() == _VECTORS[name]


def test_damaged_patches_are_refused() -> None:
    ends = fuzz_delta.fuzz(1500, seed=1)
    assert ends["BundleError"] > 500


def test_no_single_bit_of_a_tensor_patch_may_change() -> None:
    base, patch, _ = next(
        entry for entry in fuzz_delta.load(fuzz_delta.CORPUS) if len(entry[1]) == 80
    )
    for bit in range(0, 8 * len(patch), 3):
        bad = bytearray(patch)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SkerryError):
            fuzz_delta.applied(base, bytes(bad))


def test_absurd_claims_are_refused_before_memory_is_taken() -> None:
    size = b"\xff" * 7 + b"\x01"
    for patch in (
        b"\xe4\x14" + size,
        b"\xe4\x14\x80\x80\x80\x08" + b"\x80\x80\x80\x08" + b"\xff\xff\x03" + bytes(70_000),
        b"\xe4\x14\x0a\x0a" + size + b"\x02",
    ):
        with pytest.raises(SkerryError):
            fuzz_delta.applied(b"", patch)


def test_a_chain_of_no_patches_is_refused() -> None:
    with pytest.raises(BundleError, match="no patches"):
        fuzz_delta.applied(b"", b"\xe4\x2f\x00\x05" + bytes(16))


def _arrays(draw: st.DrawFn) -> dict[str, np.ndarray]:
    found = {}
    for name in draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1)):
        kind = draw(st.sampled_from(["i1", "u1", "i2", "i4", "f2", "f4"]))
        shape = draw(st.lists(st.integers(1, 6), min_size=0, max_size=5))
        count = int(np.prod(shape, dtype=int)) * np.dtype(kind).itemsize
        data = draw(st.binary(min_size=count, max_size=count))
        found[name] = np.frombuffer(data, kind).reshape(shape)
    return found


@st.composite
def _versions(draw: st.DrawFn) -> tuple[bytes, bytes]:
    old = _arrays(draw)
    new = dict(old)
    for name, array in old.items():
        change = draw(st.sampled_from(["keep", "nudge", "turn", "drop", "other"]))
        if change == "nudge":
            bits = array.copy().reshape(-1).view(f"u{array.itemsize}")
            bits[draw(st.integers(0, len(bits) - 1))] ^= draw(st.integers(0, 255))
            new[name] = bits.view(array.dtype).reshape(array.shape)
        elif change == "turn":
            new[name] = np.ascontiguousarray(array.T)
        elif change == "drop":
            del new[name]
        elif change == "other":
            new[f"{name}2"] = new.pop(name)
    return save(old), save(new)


@settings(max_examples=60, deadline=None)
@given(_versions())
def test_any_two_versions_of_a_model_lead_to_one_another(pair: tuple[bytes, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        old, new, patch, made = (Path(folder) / name for name in ("old", "new", "patch", "made"))
        old.write_bytes(pair[0])
        new.write_bytes(pair[1])
        create(old, new, patch)
        apply(old, patch, made)
        assert made.read_bytes() == pair[1]
        assert delta_reference.decode(pair[0], patch.read_bytes()) == pair[1]


def test_limits_are_kept(tmp_path: Path) -> None:
    old, new, patch = tmp_path / "old", tmp_path / "new", tmp_path / "patch"
    old.write_bytes(b"")
    new.write_bytes(bytes(range(256)) * 40)
    create(old, new, patch)
    with pytest.raises(SkerryError):
        apply(old, patch, tmp_path / "made", limits=Limits(segment_bytes=1000))
    with pytest.raises(SkerryError):
        apply(old, patch, tmp_path / "made", limits=Limits(file_bytes=1000))
