"""Data sets fit the recipe, or it is said what does not."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skerry.converter.data.base import Dataset
from skerry.converter.data.images import decode
from skerry.converter.data.load import load_dataset
from skerry.converter.recipe import Input
from skerry.devices.errors import InputError

_INPUTS = {"image": Input((1, 8, 8), layout="nhwc", dtype="uint8")}


def test_npz_and_functions_give_the_same_form(project: Path) -> None:
    rows = load_dataset("rows.npz", project, _INPUTS, 4)
    called = load_dataset("data.py:train", project, _INPUTS, 4)
    assert rows.inputs["image"].shape == (4, 8, 8, 1)
    assert called.inputs["image"].dtype == np.uint8
    assert len(called) == 256


_BATCHES = """
import numpy as np

def batches():
    for start in range(0, 10, 4):
        count = min(4, 10 - start)
        yield {"image": np.full((count, 8, 8, 1), start, np.uint8), "label": np.zeros(count, int)}

def uneven():
    yield {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, int)}
    yield {"image": np.zeros((2, 4, 4, 1), np.uint8), "label": np.zeros(2, int)}

def unnamed():
    yield {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, int)}
    yield {"image": np.zeros((2, 8, 8, 1), np.uint8)}

def breaks():
    yield {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, int)}
    raise OSError("the camera is gone")

def nothing():
    yield from ()

def numbers():
    yield 7

def text():
    return "rows"
"""


def test_a_function_may_yield_batches(project: Path) -> None:
    (project / "batches.py").write_text(_BATCHES)
    found = load_dataset("batches.py:batches", project, _INPUTS, 4)
    assert found.inputs["image"][:, 0, 0, 0].tolist() == [0] * 4 + [4] * 4 + [8] * 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("uneven", "do not join"),
        ("unnamed", "different arrays"),
        ("breaks", "the camera is gone"),
        ("nothing", "no batch"),
        ("numbers", "yielded int"),
        ("text", "gave str"),
    ],
)
def test_batches_that_do_not_fit_are_named(project: Path, name: str, words: str) -> None:
    (project / "batches.py").write_text(_BATCHES)
    with pytest.raises(InputError) as caught:
        load_dataset(f"batches.py:{name}", project, _INPUTS, 4)
    assert words in str(caught.value)
    assert caught.value.remedy


def test_samples_repeat_and_keep_their_order() -> None:
    data = Dataset("here", {"x": np.arange(50)}, np.arange(50))
    chosen = data.sample(10, seed=4)
    assert len(chosen) == 10
    np.testing.assert_array_equal(chosen.labels, np.sort(chosen.labels))
    np.testing.assert_array_equal(chosen.labels, data.sample(10, seed=4).labels)
    np.testing.assert_array_equal(chosen.labels, chosen.inputs["x"])
    assert [len(batch["x"]) for batch in data.batches(20)] == [20, 20, 10]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data.py:empty", "the data set is empty"),
        ("data.py:out_of_range", "the label 4 is out of range"),
        ("data.py:channels_first", "input.image says [8, 8, 1]"),
        ("torn.npz", "cannot be read as .npz"),
        ("objects.npz", "cannot be read as .npz"),
        ("unlabelled.npz", "there is no array 'label'"),
        ("short.npz", "4 rows of 'image' but 3 labels"),
        ("floats.npz", "'image' is float64"),
    ],
)
def test_what_does_not_fit_is_named(project: Path, text: str, words: str) -> None:
    image = np.zeros((4, 8, 8, 1), np.uint8)
    (project / "torn.npz").write_bytes((project / "rows.npz").read_bytes()[:200])
    np.savez(project / "objects.npz", image=np.array([{}], object), label=np.zeros(1, int))
    np.savez(project / "unlabelled.npz", image=image)
    np.savez(project / "short.npz", image=image, label=np.zeros(3, int))
    np.savez(project / "floats.npz", image=image.astype(float), label=np.zeros(4, int))
    with pytest.raises(InputError) as caught:
        load_dataset(text, project, _INPUTS, 4)
    assert words in str(caught.value)
    assert caught.value.remedy


def _png(value: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def _tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


_PICTURES = {"dog/1.png": _png(10), "cat/2.png": _png(20, (16, 16)), "cat/1.png": _png(30)}


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_pictures_in_class_folders(tmp_path: Path, kind: str) -> None:
    files = {f"./set/{name}": data for name, data in _PICTURES.items()}
    _tar(tmp_path / "set.tar", {**files, "./set/read.me": b"no picture"})
    for name, data in _PICTURES.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = load_dataset("set.tar" if kind == "tar" else "set", tmp_path, _INPUTS, 2)
    assert found.classes == ("cat", "dog")
    np.testing.assert_array_equal(found.labels, [0, 0, 1])
    np.testing.assert_array_equal(found.inputs["image"][:, 0, 0, 0], [30, 20, 10])


def test_colour_and_layout_are_the_recipes(tmp_path: Path) -> None:
    _tar(tmp_path / "set.tar", {"a/1.png": _png(200, (4, 2), "RGB")})
    nchw = {"image": Input((3, 2, 4), layout="nchw", dtype="uint8")}
    found = load_dataset("set.tar", tmp_path, nchw).inputs["image"]
    assert found.shape == (1, 3, 2, 4)
    np.testing.assert_array_equal(found[0, :, 0, 0], [200, 0, 0])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/1.png": b"not a picture"}, "a/1.png: is no picture"),
        ({"a/1.png": _png(1)[:40]}, "is no picture"),
        ({"1.png": _png(1)}, "holds no pictures"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    _tar(tmp_path / "set.tar", files)
    with pytest.raises(InputError, match=words):
        load_dataset("set.tar", tmp_path, _INPUTS)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(channels: int) -> None:
    grey = np.array([[0, 128, 129], [257, 32896, 65535]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "png")
    found = decode(buffer.getvalue(), Input((channels, 2, 3), dtype="uint8"), "p16.png")
    for one in found:
        np.testing.assert_array_equal(one, [[0, 0, 1], [1, 128, 255]])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_greys_of_no_known_range_are_refused(dtype: type) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), 7, dtype)).save(buffer, "tiff")
    with pytest.raises(InputError, match="of 32 bits a pixel") as caught:
        decode(buffer.getvalue(), Input((1, 2, 2), dtype="uint8"), "deep.tiff")
    assert caught.value.remedy


def test_pictures_do_not_wrap_into_int8(tmp_path: Path) -> None:
    _tar(tmp_path / "set.tar", {"a/1.png": _png(200)})
    with pytest.raises(InputError, match="which int8 does not"):
        load_dataset("set.tar", tmp_path, {"image": Input((1, 8, 8), dtype="int8")})


@pytest.mark.parametrize(
    ("values", "dtype", "whole"),
    [
        ([0.25, 0.75], "uint8", False),
        ([1, 300], "uint8", False),
        ([1, -1], "uint8", False),
        ([1, 2**40], "int32", False),
        ([1, 2**24 + 1], "float32", False),
        (["1", "2"], "float32", False),
        ([2.0, 255.0], "uint8", True),
        ([1, 2], "float32", True),
        ([0.1, 1e-3], "float32", True),
    ],
)
def test_parquet_numbers_are_kept_or_refused(
    tmp_path: Path, values: list, dtype: str, whole: bool
) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"x": values, "label": [0, 1]}), tmp_path / "x.parquet")
    inputs = {"x": Input((1,), dtype=dtype)}
    if whole:
        found = load_dataset("x.parquet", tmp_path, inputs, 2).inputs["x"]
        np.testing.assert_array_equal(found.ravel(), np.array(values, dtype))
        return
    with pytest.raises(InputError, match=f"the recipe's input.x.dtype says {dtype}") as caught:
        load_dataset("x.parquet", tmp_path, inputs, 2)
    assert caught.value.remedy


def test_parquet_rows_of_uneven_length_are_named(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"x": [1.0, 2.0], "label": [[0], [0, 1]]})
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match="the rows of 'label' do not have one shape"):
        load_dataset("x.parquet", tmp_path, {"x": Input((1,))})


def test_parquet_columns(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    inputs = {**_INPUTS, "age": Input((1,))}
    table = arrow.table(
        {
            "image": [{"bytes": _png(7), "path": None}, {"bytes": _png(9), "path": None}],
            "age": [1.5, 2.5],
            "label": [1, 0],
            "note": ["left", "out"],
        }
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    found = load_dataset("rows.parquet", tmp_path, inputs, 2)
    np.testing.assert_array_equal(found.inputs["age"], [[1.5], [2.5]])
    np.testing.assert_array_equal(found.inputs["image"][:, 3, 3, 0], [7, 9])
    np.testing.assert_array_equal(found.labels, [1, 0])
    parquet.write_table(arrow.table({"age": [[1.0, 2.0]], "label": [0]}), tmp_path / "odd.parquet")
    with pytest.raises(InputError, match="does not have the shape"):
        load_dataset("odd.parquet", tmp_path, {"age": Input((1,))})
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        load_dataset("torn.parquet", tmp_path, inputs)
