"""`skerry convert --init` writes a recipe that the converter then takes."""

import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from skerry.cli.main import main
from skerry.converter.recipe_file import load_recipe
from skerry.devices.errors import ExitCode


class Two(nn.Module):
    def forward(self, picture: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        return picture.mean((2, 3)) + age


@pytest.fixture
def models(project: Path) -> Path:
    batch = {0: torch.export.Dim("batch")}
    rows = (torch.zeros(2, 3, 6, 8), torch.zeros(2, 3))
    program = torch.export.export(Two().eval(), rows, dynamic_shapes=(batch, batch))
    torch.export.save(program, project / "two.pt2")
    torch.onnx.export(program, verbose=False).save(project / "two.onnx")
    return project


@pytest.mark.parametrize("model", ["two.pt2", "two.onnx", "model.py:net"])
def test_what_can_be_inferred_is_written(
    models: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    (models / "sub").mkdir()
    assert main(["convert", "sub/new.toml", "--init", model]) == ExitCode.OK
    recipe = models / "sub" / "new.toml"
    document = tomllib.loads(recipe.read_text())
    assert document["source"]["model"] == f"../{model}"
    if model != "model.py:net":
        assert document["input"]["picture"]["shape"] == [3, 6, 8]
        assert document["input"]["age"]["shape"] == [3]
    for name in ("train.npz", "evaluation.npz", "weights.safetensors"):
        (models / "sub" / name).write_bytes(b"")
    load_recipe(recipe)
    text = recipe.read_text()
    assert main(["convert", "sub/new.toml", "--init", model]) == ExitCode.BAD_INPUT
    assert recipe.read_text() == text


@pytest.mark.parametrize("model", ["gone.onnx", "data.csv", "model.py:gone"])
def test_what_is_no_model_is_refused(
    project: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "data.csv").write_text("1,2\n")
    words = ["convert", str(project / "new.toml"), "--init", str(project / model)]
    assert main(words) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1
    assert not (project / "new.toml").exists()
