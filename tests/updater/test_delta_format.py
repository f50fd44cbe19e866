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
from skerry.updater.delta.geometry import Element, Geometry
from skerry.updater.delta.prediction import neighbours
from skerry.updater.delta.rans import Decoder, Encoder
from skerry.updater.delta.sides import Expectation, code_side
from skerry.updater.delta.tensors import code_tensors
from skerry.updater.delta.wire import varint
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


_LEVELS = {
    Element.INT8: (-8, 12),
    Element.FLOAT16: (-4, 70),
    Element.BFLOAT16: (200, 520),
    Element.FLOAT32: (200, 520),
}


def _numbers(draw: st.DrawFn, low: int, high: int, count: int) -> np.ndarray:
    return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)), "i4")


@st.composite
def _told(draw: st.DrawFn) -> tuple[Geometry, bytes, bytes, Expectation]:
    """A tensor before and after, of any bits, and an expectation that may be far from any good."""
    element = draw(st.sampled_from(list(_LEVELS)))
    height, width, rows, columns = (draw(st.integers(1, 3)) for _ in range(4))
    geometry = Geometry(element, (height, width, rows, columns))
    old = draw(st.binary(min_size=geometry.length, max_size=geometry.length))
    new = bytearray(old)
    for at in draw(st.lists(st.integers(0, len(old) - 1), max_size=40)):
        new[at] ^= draw(st.integers(1, 255))
    cells = element is not Element.INT8 and draw(st.booleans())
    predicted = height * width > 1 and (cells or element is Element.INT8) and draw(st.booleans())
    before = sum(map(len, neighbours(height, width)))
    low, high = _LEVELS[element]
    told = Expectation(
        draw(st.integers(low, high)),
        _numbers(draw, -30, 30, rows) if draw(st.booleans()) else None,
        _numbers(draw, -30, 30, columns) if draw(st.booleans()) else None,
        _numbers(draw, -400, 400, rows) if element.ratio_bits and draw(st.booleans()) else None,
        relative=element is not Element.INT8 and not cells and draw(st.booleans()),
        cells=cells,
        planes=_numbers(draw, -20, 20, height * width) if predicted else None,
        coefficients=_numbers(draw, -1024, 1024, before) if predicted else None,
    )
    return geometry, old, bytes(new), told


@settings(max_examples=200, deadline=None)
@given(_told())
def test_whatever_is_expected_of_a_tensor_it_comes_back(
    entry: tuple[Geometry, bytes, bytes, Expectation],
) -> None:
    geometry, old, new, told = entry
    coder, given = Encoder(), [(told, geometry.canonical(new))]
    for _ in code_tensors(coder, [geometry], lambda _: old, given):
        pass
    states, words, raw = coder.finish(4)
    decoder = Decoder(states, words, raw)
    ((_, made),) = code_tensors(decoder, [geometry], lambda _: old)
    decoder.end()
    assert made.tobytes() == new
    parts = states.astype("<u4").tobytes(), varint(len(words)), words.astype("<u2").tobytes(), raw
    shape = (int(geometry.element), geometry.sizes, (0, 1, 2, 3), (0, 1, 2, 3))
    assert delta_reference.tensors(b"\x02" + b"".join(parts), [(shape, old)]) == [new]


_ONE = np.ones(1, np.int32)


@pytest.mark.parametrize(
    ("element", "planes", "told"),
    [
        (Element.INT8, 1, Expectation(0, cells=True)),
        (Element.FLOAT16, 1, Expectation(0, cells=True, first_cells=True)),
        (Element.FLOAT16, 1, Expectation(0, guide=1)),
        (Element.FLOAT32, 2, Expectation(0, planes=_ONE.repeat(2), coefficients=_ONE)),
        (Element.INT16, 2, Expectation(0, planes=_ONE.repeat(2), coefficients=_ONE)),
        (Element.INT8, 1, Expectation(0, planes=_ONE, coefficients=_ONE)),
        (Element.INT8, 2, Expectation(0, planes=_ONE.repeat(2), coefficients=1025 * _ONE)),
        (Element.INT8, 2, Expectation(0, planes=4097 * _ONE.repeat(2), coefficients=_ONE)),
    ],
)
def test_no_tensor_is_told_in_a_way_it_cannot_be(
    element: Element, planes: int, told: Expectation
) -> None:
    geometry = Geometry(element, (1, planes, 2, 2))
    coder = Encoder()
    code_side(coder, 0, 1, [told.mode])
    code_side(coder, 1, 1, [0])
    for which, part in ((5, [told.guide]), (7, told.planes), (8, told.coefficients)):
        if part is not None and any(part):
            code_side(coder, which, len(part), part)
    decoder = Decoder(*coder.finish(1))
    with pytest.raises(BundleError, match=r"go with its type|predicts a tensor is beyond"):
        list(code_tensors(decoder, [geometry], lambda _: bytes(geometry.length)))


def test_limits_are_kept(tmp_path: Path) -> None:
    old, new, patch = tmp_path / "old", tmp_path / "new", tmp_path / "patch"
    old.write_bytes(b"")
    new.write_bytes(bytes(range(256)) * 40)
    create(old, new, patch)
    with pytest.raises(SkerryError):
        apply(old, patch, tmp_path / "made", limits=Limits(segment_bytes=1000))
    with pytest.raises(SkerryError):
        apply(old, patch, tmp_path / "made", limits=Limits(file_bytes=1000))
