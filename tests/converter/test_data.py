"""Data sets fit the recipe, or it is said what does not."""

from pathlib import Path

import numpy as np
import pytest

from skerry.converter.data.base import Dataset
from skerry.converter.data.load import load_dataset
from skerry.converter.recipe import Input
from skerry.devices.errors import InputError

_INPUTS = {"image": Input((1, 8, 8), "nhwc", "uint8")}


def test_npz_and_functions_give_the_same_form(project: Path) -> None:
    rows = load_dataset("rows.npz", project, _INPUTS, 4)
    called = load_dataset("data.py:train", project, _INPUTS, 4)
    assert rows.inputs["image"].shape == (4, 8, 8, 1)
    assert called.inputs["image"].dtype == np.uint8
    assert len(called) == 256


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
