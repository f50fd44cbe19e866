"""Labels fit what the model gives, or it is said what does not, before any work."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skerry.cli.main import main
from skerry.converter.loading import Loaded, load
from skerry.converter.recipe_file import load_recipe
from skerry.converter.steps.base import Batch
from skerry.converter.steps.objective import FromTeachers, Teachers, label_loss
from skerry.devices.errors import InputError, RecipeError

_SEED = 7
_MODEL = """
import torch
from torch import nn

class Of(nn.Module):
    def __init__(self, layer, flat=False):
        super().__init__()
        self.layer, self.flat = layer, flat
    def forward(self, x):
        y = self.layer(x)
        return y[:, 0] if self.flat else y

def _of(layer, flat=False):
    torch.manual_seed(7)
    return Of(layer(), flat)

def one(): return _of(lambda: nn.Linear(8, 1))
def flat(): return _of(lambda: nn.Linear(8, 1), flat=True)
def three(): return _of(lambda: nn.Linear(8, 3))
def each(): return _of(lambda: nn.Linear(2, 3))
def pixels(): return _of(lambda: nn.Conv2d(1, 3, 1))

def points(outputs, labels): return 50.0
"""
_SHAPES = {"one": (8,), "flat": (8,), "three": (8,), "each": (5, 2), "pixels": (1, 4, 6)}
_STEP = """
[[step]]
kind = "finetune"
epochs = 12
batch = 64
learning_rate = 0.05
"""


def _recipe(
    folder: Path, net: str, label: np.ndarray, *, metric: str = "top1", steps: str = ""
) -> Path:
    """A recipe whose rows have these labels."""
    shape = _SHAPES[net]
    x = np.random.default_rng(_SEED).normal(size=(len(label), *shape)).astype(np.float32)
    np.savez(folder / "rows.npz", x=x, label=label)
    (folder / "nets.py").write_text(_MODEL)
    path = folder / "recipe.toml"
    path.write_text(f"""
[model]
name = "m"
[source]
model = "nets.py:{net}"
[input.x]
shape = {list(shape)}
[output.scores]
[data]
evaluation = "rows.npz"
train = "rows.npz"
metric = "{metric}"
[quantize]
precisions = ["fp32"]
[target]
formats = ["onnx"]
{steps}""")
    return path


def _loaded(folder: Path, *words: object, **more: str) -> Loaded:
    return load(load_recipe(_recipe(folder, *words, **more)))  # type: ignore[arg-type]


_CLASSES = np.arange(24) % 3
_FLOATS = np.linspace(-1, 1, 24, dtype=np.float32)


@pytest.mark.parametrize(
    ("net", "label", "found"),
    [
        ("one", _FLOATS, (24, 1)),
        ("one", _FLOATS[:, None], (24, 1)),
        ("flat", _FLOATS, (24,)),
        ("flat", _FLOATS[:, None], (24,)),
        ("three", _CLASSES, (24,)),
        ("three", _CLASSES[:, None], (24,)),
        ("each", _CLASSES[:, None].repeat(5, 1), (24, 5)),
        ("pixels", np.zeros((24, 4, 6), np.int64), (24, 4, 6)),
        ("three", np.where(_CLASSES > 1, -100, _CLASSES), (24,)),
    ],
)
def test_training_gets_labels_in_the_shape_of_the_scores(
    tmp_path: Path, net: str, label: np.ndarray, found: tuple[int, ...]
) -> None:
    loaded = _loaded(tmp_path, net, label, metric="nets.py:points", steps=_STEP)
    assert loaded.train is not None and loaded.calibration is not None
    assert loaded.train.labels.shape == found
    np.testing.assert_array_equal(loaded.train.labels.ravel(), label.ravel())
    # The user's metric goes on getting what the user gave.
    assert loaded.evaluation.labels.shape == loaded.calibration.labels.shape == label.shape


@pytest.mark.parametrize(
    ("net", "label", "metric", "key", "words"),
    [
        ("three", np.eye(3, dtype=np.int64)[_CLASSES], "top1", "data.evaluation", r"\[N, 3\]"),
        ("pixels", np.zeros((24, 4, 6), np.int64), "top1", "data.evaluation", r"\[N, 3, 4, 6\]"),
        ("each", _CLASSES, "top5", "data.evaluation", r"\[N, 5, 3\]"),
        ("flat", _CLASSES, "top1", "data.metric", "scores by class"),
        ("three", _FLOATS, "nets.py:points", "data.train", r"\(float32\) for scores of \[N, 3\]"),
        ("one", _FLOATS.reshape(12, 2), "nets.py:points", "data.train", r"\[N, 2\]"),
        ("flat", _CLASSES, "nets.py:points", "data.train", r"\(int64\) for scores of \[N\]"),
        ("each", _CLASSES, "nets.py:points", "data.train", r"\[N, 5, 3\]"),
        ("three", _CLASSES + 1, "nets.py:points", "data.train", "label 3 is out of range"),
        ("three", _CLASSES.astype(str), "nets.py:points", "data.train", "labels are <U"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    tmp_path: Path, net: str, label: np.ndarray, metric: str, key: str, words: str
) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        _loaded(tmp_path, net, label, metric=metric, steps=_STEP)
    assert str(caught.value.where).endswith(f": {key}")
    assert caught.value.remedy


def test_a_label_of_a_position_that_is_out_of_range_is_named(tmp_path: Path) -> None:
    label = np.zeros((24, 5), np.int64)
    label[3, 2] = 3
    with pytest.raises(InputError, match="label 3 is out of range"):
        _loaded(tmp_path, "each", label)


def _pictures(folder: Path, names: list[str], labels: list[str]) -> Path:
    """A recipe for one picture in each class folder, as grey as the folder's place in `names`."""
    for place, name in enumerate(names):
        (folder / "set" / name).mkdir(parents=True)
        grey = np.full((4, 4), place, np.uint8)
        Image.fromarray(grey).save(folder / "set" / name / "1.png")
    (folder / "nets.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 12))\n"
    )
    path = folder / "recipe.toml"
    path.write_text(f"""
[model]
name = "p"
labels = {labels}
[source]
model = "nets.py:net"
[input.image]
shape = [1, 4, 4]
dtype = "uint8"
[output.scores]
[data]
evaluation = "set"
[quantize]
precisions = ["fp32"]
[target]
formats = ["onnx"]
""")
    return path


_NUMBERS = [str(number) for number in range(12)]


def test_class_folders_have_the_numbers_of_model_labels(tmp_path: Path) -> None:
    loaded = load(load_recipe(_pictures(tmp_path, _NUMBERS, _NUMBERS)))
    found = loaded.evaluation
    np.testing.assert_array_equal(found.labels, found.inputs["image"][:, 0, 0, 0])
    assert loaded.labels == found.classes == tuple(_NUMBERS)


def test_a_class_may_have_no_folder(tmp_path: Path) -> None:
    loaded = load(load_recipe(_pictures(tmp_path, ["10", "2"], _NUMBERS)))
    np.testing.assert_array_equal(loaded.evaluation.labels, [10, 2])


@pytest.mark.parametrize(
    ("folders", "labels", "words"),
    [
        (["0", "zero"], _NUMBERS, "class folder 'zero' is not in model.labels"),
        ([*_NUMBERS, "12"], [], "13 class folders for 12 classes"),
    ],
)
def test_class_folders_that_the_model_does_not_know(
    tmp_path: Path, folders: list[str], labels: list[str], words: str
) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        load(load_recipe(_pictures(tmp_path, folders, labels)))
    assert str(caught.value.where).endswith(": data.evaluation")
    assert caught.value.remedy


@pytest.mark.parametrize(
    "steps",
    [
        '[[step]]\nkind = "finetune"\nloss = "nets.py:points"',
        '[[step]]\nkind = "distill"\nhard_share = 0.0',
        '[[step]]\nkind = "prune"\nratio = 0.5\nepochs = 0',
    ],
)
def test_labels_that_no_step_reads_may_be_anything(tmp_path: Path, steps: str) -> None:
    boxes = np.zeros((24, 7, 4), np.float32)
    loaded = _loaded(tmp_path, "three", boxes, metric="nets.py:points", steps=steps)
    assert loaded.train is not None and loaded.train.labels.shape == boxes.shape


def test_taylor_reads_labels_whatever_the_loss_is(tmp_path: Path) -> None:
    step = '[[step]]\nkind = "prune"\nratio = 0.5\nepochs = 0\ncriterion = "taylor"'
    with pytest.raises(RecipeError, match=r"\[N, 7\]"):
        labels = np.zeros((24, 7), np.float32)
        _loaded(tmp_path, "three", labels, metric="nets.py:points", steps=step)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 5, 3), (2, 4, 6, 3)])
def test_the_loss_has_its_classes_where_the_metrics_have_them(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(_SEED)
    scores = torch.randn(shape, generator=generator)
    labels = torch.randint(3, shape[:-1], generator=generator)
    by_row = torch.nn.functional.cross_entropy(scores.reshape(-1, 3), labels.reshape(-1))
    torch.testing.assert_close(label_loss(scores, labels), by_row)
    if len(shape) == 4:  # torch's own place for them
        torch.testing.assert_close(label_loss(scores.movedim(-1, 1), labels), by_row)


def test_soft_targets_have_their_classes_where_the_labels_have_them() -> None:
    generator = torch.Generator().manual_seed(_SEED)
    scores = torch.randn((2, 4, 6, 3), generator=generator)
    labels = torch.randint(3, (2, 4, 6), generator=generator)
    teachers = Teachers([torch.nn.Tanh()])
    losses = []
    for one in (scores, scores.movedim(-1, 1)):
        objective = FromTeachers(teachers, temperature=2.0, hard_share=0.3)
        losses.append(objective((one,), Batch((one,), labels, torch.arange(2))))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(("columns", "kind"), [(1, torch.long), (1, torch.float), (3, torch.float)])
def test_a_teacher_of_numbers_is_followed_by_squared_error(columns: int, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(_SEED)
    scores = torch.randn((8, columns), generator=generator)
    labels = torch.zeros((8, columns), dtype=kind) if kind is torch.float else torch.zeros(8).long()
    objective = FromTeachers(Teachers([torch.nn.Tanh()]), temperature=2.0, hard_share=0.0)
    loss = objective((scores,), Batch((scores,), labels, torch.arange(8)))
    torch.testing.assert_close(loss, ((scores - scores.tanh()) ** 2).mean())


def test_pictures_are_not_moved_under_labels_of_places(tmp_path: Path) -> None:
    step = '[[step]]\nkind = "finetune"\naugment = { flip = true }'
    labels = np.zeros((24, 4, 6), np.int64)
    recipe = _recipe(tmp_path, "pixels", labels, metric="nets.py:points", steps=step)
    with pytest.raises(RecipeError, match="pictures are moved"):
        load(load_recipe(recipe))


def test_words_as_labels_do_where_no_step_reads_them(tmp_path: Path) -> None:
    steps = '[[step]]\nkind = "distill"\nhard_share = 0.0\nepochs = 1'
    words = np.array(["left", "right"] * 12)
    recipe = _recipe(tmp_path, "three", words, metric="nets.py:points", steps=steps)
    assert main(["convert", str(recipe), "--out", str(tmp_path / "out")]) == 0


def test_words_as_labels_are_refused_where_a_loss_looks_at_them(tmp_path: Path) -> None:
    steps = '[[step]]\nkind = "finetune"\nloss = "nets.py:points"'
    words = np.array(["left", "right"] * 12)
    with pytest.raises(RecipeError, match="give numbers"):
        _loaded(tmp_path, "three", words, metric="nets.py:points", steps=steps)


def test_a_model_that_labels_each_position_is_converted(tmp_path: Path) -> None:
    print("seed", _SEED)
    x = np.random.default_rng(_SEED).normal(size=(256, 5, 2)).astype(np.float32)
    sides = np.array([[1, -1, 0], [0, 0, 1]], np.float32)
    label = (x @ sides).argmax(-1)  # `_recipe` draws the same rows
    recipe, out = _recipe(tmp_path, "each", label, steps=_STEP), tmp_path / "out"
    assert main(["convert", str(recipe), "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_bytes())
    assert result["model_metric"] > 80 > result["source"]["metric"]
