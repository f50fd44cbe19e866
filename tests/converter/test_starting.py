"""`skerry convert --init` writes a recipe that the converter then takes."""

import os
import tomllib
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper
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


def test_names_and_paths_of_any_letters_give_a_recipe_that_is_read(project: Path) -> None:
    names = ["a/b:0", "a.b", "a_b_2", "übergröße", "9", "n" * 80]
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in names]
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Sum", names, ["total"])], "net", row, [total])
    folder = project / 'a "quoted" \\ {folder}\n\x7f'
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "sum.onnx").write_bytes(model.SerializeToString())
    recipe = project / "new.toml"
    assert main(["convert", str(recipe), "--init", str(folder / "sum.onnx")]) == ExitCode.OK
    for name in ("train.npz", "evaluation.npz"):
        (project / name).write_bytes(b"")
    read = load_recipe(recipe)
    assert read.model_path() == folder / "sum.onnx"
    found = ["a_b", "a_b_2", "a_b_2_2", "_bergr__e", "input", "n" * 63]
    assert list(read.recipe.input) == found


def test_a_path_that_is_no_text_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = project / os.fsdecode(b"odd-\xff.py")
    odd.write_bytes((project / "model.py").read_bytes())
    words = ["convert", str(project / "new.toml"), "--init", f"{odd}:net"]
    assert main(words) == ExitCode.BAD_INPUT
    assert "is not UTF-8" in capsys.readouterr().err
    assert not (project / "new.toml").exists()


@pytest.mark.parametrize("model", ["gone.onnx", "data.csv", "model.py:gone"])
def test_what_is_no_model_is_refused(
    project: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "data.csv").write_text("1,2\n")
    words = ["convert", str(project / "new.toml"), "--init", str(project / model)]
    assert main(words) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1
    assert not (project / "new.toml").exists()
