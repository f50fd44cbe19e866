"""A key changes with all that its content depends on, wherever the user keeps it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from skerry.converter.keys import Keys
from skerry.converter.loading import load
from skerry.converter.recipe_file import load_recipe
from skerry.converter.userfile import imported_files

_BODY = """
from torch import nn, {act}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 3)
    def forward(self, x):
        return {act}(self.a(x))
"""
_FACTORY = """
import torch
from nets.body import Net
def make():
    torch.manual_seed(0)
    return Net()
"""
_LATE = """
import torch
def make():
    from skerry_test_elsewhere.body import Net
    torch.manual_seed(0)
    return Net()
"""
_LOSS = """
from losses.mine import own
def loss(scores, targets, labels):
    return own(scores)
"""
_RECIPE = """
[model]
name = "m"
[source]
model = "factory.py:make"
[input.x]
shape = [8]
[output.scores]
[data]
evaluation = "rows.npz"
train = "rows.npz"
[quantize]
precisions = ["fp32"]
[target]
formats = ["onnx"]
"""
_STEP = '\n[[step]]\nkind = "distill"\nepochs = 1\nhard_share = 0.0\n'


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Callable[[], Keys]]:
    """The keys of `recipe.toml`, as a new process would find them."""
    rows = {"x": np.ones((4, 8), np.float32), "label": np.zeros(4, np.int64)}
    np.savez(tmp_path / "rows.npz", **rows)
    _write(tmp_path / "recipe.toml", _RECIPE)

    def forget() -> None:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
                del sys.modules[name]

    def found() -> Keys:
        forget()
        return Keys.of(load(load_recipe(tmp_path / "recipe.toml")))

    dont_write, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    yield found
    sys.dont_write_bytecode = dont_write
    forget()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_code_in_a_sub_package_is_part_of_the_model(
    tmp_path: Path, keys: Callable[[], Keys]
) -> None:
    _write(tmp_path / "factory.py", _FACTORY)
    _write(tmp_path / "nets" / "__init__.py", "")
    _write(tmp_path / "nets" / "body.py", _BODY.format(act="relu"))
    first = keys()
    _write(tmp_path / "nets" / "unused.py", "changed = True")
    assert keys() == first
    _write(tmp_path / "nets" / "body.py", _BODY.format(act="tanh"))
    second = keys()
    assert second.source != first.source
    assert second.trained != first.trained
    assert second.evaluation == first.evaluation


def test_a_package_elsewhere_counts_though_it_is_imported_late(
    tmp_path: Path, keys: Callable[[], Keys], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is installed to be edited."""
    monkeypatch.syspath_prepend(tmp_path / "src")
    body = tmp_path / "src" / "skerry_test_elsewhere" / "body.py"
    _write(tmp_path / "factory.py", _LATE)
    _write(body, _BODY.format(act="relu"))
    first = keys()
    assert keys() == first
    _write(body, _BODY.format(act="tanh"))
    assert keys().source != first.source


def test_what_a_loss_imports_counts_before_it_is_called(
    tmp_path: Path, keys: Callable[[], Keys]
) -> None:
    _write(tmp_path / "factory.py", _FACTORY.replace("nets.body", "body"))
    _write(tmp_path / "body.py", _BODY.format(act="relu"))
    _write(tmp_path / "loss.py", _LOSS)
    _write(tmp_path / "losses" / "mine.py", "def own(scores): return scores.sum()\n")
    _write(tmp_path / "recipe.toml", _RECIPE + _STEP + 'loss = "loss.py:loss"\n')
    first = keys()
    _write(tmp_path / "losses" / "mine.py", "def own(scores): return scores.mean()\n")
    assert keys().steps != first.steps


def test_rows_that_a_step_names_count(tmp_path: Path, keys: Callable[[], Keys]) -> None:
    _write(tmp_path / "factory.py", _FACTORY.replace("nets.body", "body"))
    _write(tmp_path / "body.py", _BODY.format(act="relu"))
    _write(tmp_path / "recipe.toml", _RECIPE + _STEP + 'rows = "more.npz"\n')
    np.savez(tmp_path / "more.npz", x=np.zeros((4, 8), np.float32))
    first = keys()
    np.savez(tmp_path / "more.npz", x=np.ones((4, 8), np.float32))
    second = keys()
    assert second.source == first.source
    assert second.steps != first.steps


def test_what_is_installed_is_not_the_users_own() -> None:
    found = imported_files()
    assert not {"json", "numpy", "torch", "pytest", "skerry.converter.keys"} & found.keys()
    assert found[__name__] == Path(__file__).resolve()
