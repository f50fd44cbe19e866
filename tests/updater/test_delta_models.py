"""Tensors are found in every format, matched whatever happened to them, and cost little."""

import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from skerry.devices.errors import InputError
from skerry.updater.delta import apply, create, stat
from skerry.updater.delta.formats import find_tensors
from skerry.updater.delta.geometry import Element
from skerry.updater.delta.matching import match

_DATA = Path(__file__).parent.parent / "runtime" / "data"
_DRAW = np.random.default_rng(5)
_OLD = np.rint(_DRAW.laplace(0, 25, (32, 24, 3, 3))).clip(-127, 127).astype(np.int8)
_NEW = (_OLD + np.rint(_DRAW.laplace(0, 0.4, _OLD.shape))).clip(-127, 127).astype(np.int8)


def _size(tmp_path: Path, old: bytes, new: bytes, name: str = "model") -> int:
    a, b, p, made = (tmp_path / f"{kind}-{name}" for kind in ("old", "new", "patch", "made"))
    a.write_bytes(old)
    b.write_bytes(new)
    size = create(a, b, p).patch_size
    apply(a, p, made)
    assert made.read_bytes() == new
    return size


def _field(number: int, data: bytes) -> bytes:
    out, size = bytearray([number << 3 | 2]), len(data)
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes(out) + bytes([size]) + data


def _onnx(arrays: dict[str, np.ndarray]) -> bytes:
    """A ModelProto with these int8 initializers."""
    tensors = b""
    for name, array in arrays.items():
        dims = b"".join(bytes([8, n]) for n in array.shape)
        raw = _field(9, array.tobytes())
        tensors += _field(5, dims + b"\x10\x03" + _field(8, name.encode()) + raw)
    return b"\x08\x08" + _field(7, _field(2, b"graph") + tensors)


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _weight_bin(array: np.ndarray) -> bytes:
    head = struct.pack("<II", 1, 2).ljust(64, b"\0")
    blob = struct.pack("<IIQQ", 0xDEADBEEF, 4, array.nbytes, 128).ljust(64, b"\0")
    return head + blob + array.tobytes()


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


_FORMATS = {
    "onnx": lambda array: _onnx({"conv.weight": array}),
    "safetensors": lambda array: save({"conv.weight": array}),
    "npy": _npy,
    "mlpackage": lambda array: _tar({"Data/weights/weight.bin": _weight_bin(array)}),
    "tar of models": lambda array: _tar({"a/m.onnx": _onnx({"w": array}), "b": b"text"}),
}


@pytest.mark.parametrize("name", _FORMATS)
def test_tensors_are_found_where_they_lie(name: str) -> None:
    data = _FORMATS[name](_OLD)
    (found,) = find_tensors(memoryview(data))
    assert found.element is Element.INT8
    assert data[found.offset : found.offset + found.length] == _OLD.tobytes()


@pytest.mark.parametrize("name", _FORMATS)
def test_a_fine_tune_costs_about_its_entropy(name: str, tmp_path: Path) -> None:
    counts = np.unique(_NEW - _OLD, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / counts.sum())).sum() / 8
    size = _size(tmp_path, _FORMATS[name](_OLD), _FORMATS[name](_NEW))
    assert size <= 1.03 * entropy + 200


def test_the_tensors_of_a_tflite_file_are_found() -> None:
    data = memoryview((_DATA / "linear.tflite").read_bytes())
    assert any(tensor.element is Element.FLOAT32 for tensor in find_tensors(data))


def test_weights_beside_an_onnx_file_are_found(tmp_path: Path) -> None:
    entries = {"location": "w.data", "offset": "64", "length": str(_OLD.nbytes)}
    external = b"".join(
        _field(13, _field(1, key.encode()) + _field(2, value.encode()))
        for key, value in entries.items()
    )
    dims = b"".join(bytes([8, n]) for n in _OLD.shape)
    tensor = dims + b"\x10\x03" + _field(8, b"w") + external + b"\x70\x01"
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + _field(7, _field(5, tensor)))
    data = bytes(64) + _OLD.tobytes()
    (tmp_path / "w.data").write_bytes(data)
    (found,) = find_tensors(memoryview(data), tmp_path / "w.data")
    assert (found.offset, found.length) == (64, _OLD.nbytes)


@pytest.mark.parametrize("name", _FORMATS)
def test_a_damaged_model_is_still_a_file(name: str, tmp_path: Path) -> None:
    data = bytearray(_FORMATS[name](_OLD))
    for at in _DRAW.integers(0, min(len(data), 700), 30):
        data[at] ^= 0xFF
    _size(tmp_path, _FORMATS[name](_OLD), bytes(data))
    _size(tmp_path, bytes(data), _FORMATS[name](_NEW)[:-9])


def test_renamed_reordered_and_turned_tensors_are_found() -> None:
    vector = _DRAW.standard_normal(500).astype(np.float32)
    old = save({"a": _OLD, "b": vector, "c": _OLD[:, :, 0, 0].copy()})
    turned = np.ascontiguousarray(_NEW.transpose(0, 2, 3, 1))
    new = save({"x": vector + 1e-4, "y": turned, "z": np.ascontiguousarray(_OLD[:, :, 0, 0].T)})
    views = memoryview(old), memoryview(new)
    pairs = match(*(find_tensors(view) for view in views), *views)
    assert {pair.new.name for pair in pairs} == {"x", "y", "z"}
    assert sum(p.geometry.old_order != p.geometry.new_order for p in pairs) == 2


def test_new_scales_cost_little(tmp_path: Path) -> None:
    weights = _DRAW.laplace(0, 0.1, (64, 1024))
    gain = 1 + 0.3 * _DRAW.random((64, 1))
    old = np.rint(weights * 300).clip(-127, 127).astype(np.int8)
    new = np.rint(weights * 300 * gain).clip(-127, 127).astype(np.int8)
    counts = np.unique(new - old, return_counts=True)[1]
    plain = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert _size(tmp_path, save({"w": old}), save({"w": new})) < 0.6 * plain


def test_sparse_changes_cost_what_they_touch(tmp_path: Path) -> None:
    old = _DRAW.integers(-100, 100, (2000, 1000)).astype(np.int8)
    new = old.copy()
    new.reshape(-1)[_DRAW.integers(0, new.size, 20)] += 3
    assert _size(tmp_path, save({"w": old}), save({"w": new})) < 220


def test_large_tensors_are_cut_and_told_apart(tmp_path: Path) -> None:
    old = _DRAW.standard_normal((1500, 2000)).astype(np.float32)
    new = (old + 0.01 * _DRAW.standard_normal(old.shape)).astype(np.float32)
    size = _size(tmp_path, save({"w": old}), save({"w": new}))
    assert size < 0.8 * new.nbytes
    found = stat(tmp_path / "patch-model", old=tmp_path / "old-model")
    assert sum(part.bytes for part in found.parts) == found.patch_size == size
    tensors = [part for part in found.parts if part.method == "subtract float32"]
    assert sum(part.new_bytes for part in tensors) == new.nbytes
    assert all(part.bytes <= 1.03 * part.entropy for part in tensors)
    assert json.dumps([part.name for part in tensors]).count("w") >= 1


def test_what_goes_beside_the_tensors_is_no_tensors(tmp_path: Path) -> None:
    old = {f"w{i}": _DRAW.standard_normal((64, 64)).astype(np.float32) for i in range(8)}
    new = {name: w * 0.97 + np.float32(0.01) * w[::-1] for name, w in old.items()}
    size = _size(tmp_path, save(old), save(new))
    found = stat(tmp_path / "patch-model", old=tmp_path / "old-model")
    assert sum(part.bytes for part in found.parts) == size
    tensors = [part for part in found.parts if part.method == "subtract float32"]
    assert [part.name for part in tensors] == sorted(old)
    assert max(part.bytes for part in tensors) < 1.1 * min(part.bytes for part in tensors)
    with pytest.raises(InputError, match="nothing"):
        stat(tmp_path / "patch-model", old=tmp_path / "nothing")
