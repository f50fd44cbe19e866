"""A recipe is read whole or refused in one line that names file, key and remedy."""

import subprocess
import sys
from pathlib import Path

import pytest

from skerry.converter.recipe_file import load_recipe
from skerry.devices.errors import ExitCode, RecipeError


def edited(project: Path, old: str, new: str) -> Path:
    path = project / "recipe.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def refusal(path: Path, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    error = caught.value
    assert "\n" not in str(error)
    assert error.exit_code == ExitCode.BAD_INPUT
    assert error.remedy
    assert str(path) in str(error)
    return error


def test_a_good_recipe_is_read(project: Path) -> None:
    recipe = load_recipe(project / "recipe.toml").recipe
    assert recipe.model.name == "quadrants"
    assert recipe.input["image"].caller_shape == (8, 8, 1)
    assert recipe.input["image"].factor == pytest.approx(1 / 255)
    assert recipe.data.calibration.source == "train"


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("[quantize]", "[quantise]", "quantise", "did you mean 'quantize'"),
        ('dtype = "uint8"', 'dtyp = "uint8"', "input.image.dtyp", "did you mean 'dtype'"),
        ("count = 64", "rows = 64", "data.calibration.rows", "count, from, seed"),
        ('formats = ["onnx"]', 'formats = ["tensorrt"]', "target.formats", "onnx, tflite, coreml"),
        ('precisions = ["int8"]', 'precisions = ["int2"]', "quantize.precisions", "fp32"),
        (
            'precisions = ["int8"]',
            'precisions = ["palette4-weights"]',
            "quantize.precisions",
            "of Core ML alone",
        ),
        (
            "[target]",
            '[target]\nprofile = "toaster"',
            "target.profile",
            "x86-64-vnni, x86",
        ),
        (
            '[quantize]\nprecisions = ["int8"]\n\n[target]',
            '[quantize]\nprecisions = ["int8-dynamic"]\n\n[target]\nprofile = "npu-per-tensor"',
            "quantize.precisions",
            "one for a weight",
        ),
        ('formats = ["onnx"]', 'formats = ["onnx", "onnx"]', "target.formats", "once"),
        ("net.safetensors", "gone.safetensors", "source.weights", "gone.safetensors"),
        ("model.py:net", "gone.py:net", "source.model", "gone.py"),
        ("model.py:net", "model.py:resnet", "source.model", "it defines: "),
        ("data.py:held_out", "held_out.npz", "data.evaluation", "no file"),
        ("data.py:train", "data.py:trains", "data.train", "it defines: "),
        ("shape = [1, 8, 8]", "shape = [1, 0, 8]", "input.image.shape", ">= 1"),
        ("shape = [1, 8, 8]", 'shape = "1x8x8"', "input.image.shape", "expected array"),
        ("mean = [0.5]", "mean = [0.5, 0.5]", "input.image.mean", "per channel"),
        ('name = "quadrants"', 'name = "Quadrants!"', "model.name", "a-z"),
        ('name = "quadrants"', "", "model.name", "add this key"),
        ("[output.scores]", '[output."a b"]', "output.a b", "letters"),
        ("[output.scores]", "[output.image]", "output.image", "another name"),
        ("[data]", '[data]\nmetric = "bleu"', "data.metric", "top1"),
        ("[target]", '[[step]]\nkind = "shrink"\n[target]', "step", "distill"),
        ("[target]", '[[step]]\nkind = "prune"\n[target]', "step[0].ratio", "add this key"),
        (
            "[target]",
            '[[step]]\nkind = "distill"\nstudent = "model.py:tiny"\n[target]',
            "step[0].student",
            "it defines: ",
        ),
    ],
)
def test_a_wrong_recipe_is_refused(project: Path, old: str, new: str, key: str, words: str) -> None:
    error = refusal(edited(project, old, new))
    assert key in str(error.where)
    assert words in str(error)


def test_steps_want_training_data(project: Path) -> None:
    path = edited(project, 'train = "data.py:train"\n', "")
    assert "data.calibration.from" in str(refusal(path).where)


def test_what_is_not_toml_or_not_there_is_refused(project: Path) -> None:
    assert "no such file" in str(refusal(project / "gone.toml"))
    broken = project / "broken.toml"
    broken.write_text("[model\n")
    assert "not TOML" in str(refusal(broken))


def test_a_key_is_overridden_from_the_command_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "sub").mkdir()
    (project / "sub" / "better.safetensors").write_bytes(b"")
    monkeypatch.chdir(project / "sub")
    overrides = [
        "model.version=2",
        "quantize.calibrator=minmax",
        "quantize.per_channel=false",
        'quantize.refinements=["adaround", "bias_correction"]',
        "source.weights=better.safetensors",
    ]
    file = load_recipe(project / "recipe.toml", [*overrides, 'target.formats=["onnx", "tflite"]'])
    assert file.recipe.model.version == "2"
    assert file.recipe.quantize.calibrator == "minmax"
    assert not file.recipe.quantize.per_channel
    assert file.recipe.quantize.refinements == ("adaround", "bias_correction")
    assert file.recipe.target.formats == ("onnx", "tflite")
    assert file.recipe.source.weights == str(project / "sub" / "better.safetensors")
    refusal(project / "recipe.toml", "model.version")
    refusal(project / "recipe.toml", "model.name.first=x")


def test_a_wrong_recipe_is_refused_before_torch_is_loaded(project: Path) -> None:
    path = edited(project, "model.py:net", "model.py:gone")
    code = (
        "import sys; from skerry.cli.main import main; "
        f"code = main(['convert', {str(path)!r}, '--out', {str(project / 'out')!r}]); "
        "sys.exit(100 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert not (project / "out").exists()
