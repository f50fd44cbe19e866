"""scikit-learn pipelines: from a factory to an ONNX bundle that answers like them."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from skerry.cli.main import main
from skerry.converter.recipe_file import load_recipe
from skerry.devices.errors import ExitCode

pytest.importorskip("skl2onnx")

_PIPELINE = """
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

def rows(seed, count=200):
    x = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    return {"x": x, "label": (x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 1)}

def held_out():
    return rows(1)

def numbers():
    found = rows(2)
    return {"x": found["x"], "label": found["x"].sum(1)}

def closeness(outputs, labels):
    return 100.0 - float(np.abs(outputs["output"][:, 0] - labels).mean())

def fit(last, seed=0):
    found = rows(seed)
    return make_pipeline(StandardScaler(), last).fit(found["x"], found["label"])

def classifier():
    return fit(LogisticRegression())

def regressor():
    found = numbers()
    forest = RandomForestRegressor(5, random_state=0)
    return make_pipeline(StandardScaler(), forest).fit(found["x"], found["label"])

def unfitted():
    return make_pipeline(StandardScaler(), LogisticRegression())

def clusters():
    return fit(KMeans(2, n_init=1))

def margins():
    return fit(LinearSVC())

class Odd(BaseEstimator, TransformerMixin):
    def fit(self, x, y=None):
        self.n_features_in_ = x.shape[1]
        return self
    def transform(self, x):
        return x

def strange():
    found = rows(0)
    return make_pipeline(Odd(), LogisticRegression()).fit(found["x"], found["label"])
"""
_RECIPE = """
[model]
name = "tabular"
[source]
model = "pipe.py:classifier"
[input.x]
shape = [5]
[data]
evaluation = "pipe.py:held_out"
[quantize]
precisions = ["fp32"]
[target]
formats = ["onnx"]
[gate]
accuracy_drop = 0.0
agreement = 1.0
"""


@pytest.fixture
def tabular(tmp_path: Path) -> Path:
    (tmp_path / "pipe.py").write_text(_PIPELINE)
    (tmp_path / "recipe.toml").write_text(_RECIPE)
    return tmp_path


def _convert(folder: Path, *words: str) -> int:
    recipe, out = str(folder / "recipe.toml"), str(folder / "out")
    return main(["convert", recipe, "--out", out, "--json", *words])


def test_a_classifier_becomes_a_bundle_that_answers_like_it(tabular: Path) -> None:
    assert _convert(tabular) == ExitCode.OK
    found = json.loads((tabular / "out" / "result.json").read_text())
    assert found["source"]["kind"] == "scikit-learn"
    (artifact,) = found["artifacts"]
    assert artifact["agreement"] == 1.0
    assert artifact["snr_db"] > 80
    assert {name: one["passed"] for name, one in artifact["gates"].items()} == {
        "accuracy_drop": True,
        "agreement": True,
    }
    scope: dict = {}
    exec(_PIPELINE, scope)
    rows = scope["held_out"]()["x"]
    np.savez(tabular / "in.npz", x=rows)
    given, answer = str(tabular / "in.npz"), tabular / "answer.npz"
    bundle = str(tabular / "out" / "bundle")
    assert main(["predict", bundle, given, "--out", str(answer)]) == ExitCode.OK
    expected = scope["classifier"]().predict_proba(rows)
    assert np.abs(np.load(answer)["output"] - expected).max() < 1e-5
    assert main(["verify", bundle]) == ExitCode.OK


def test_a_regressor_is_judged_by_a_metric_of_the_users(tabular: Path) -> None:
    assert (
        _convert(
            tabular,
            f"--set=source.model={tabular}/pipe.py:regressor",
            f"--set=data.evaluation={tabular}/pipe.py:numbers",
            "--set=data.metric=pipe.py:closeness",
        )
        == ExitCode.OK
    )
    (artifact,) = json.loads((tabular / "out" / "result.json").read_text())["artifacts"]
    assert artifact["snr_db"] > 80


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('target.formats=["tflite"]', "ONNX in fp32 alone"),
        ('quantize.precisions=["fp16"]', "ONNX in fp32 alone"),
        ("input.x.shape=[4]", "shape = [5] alone"),
        ("input.x.scale=2.0", "shape = [5] alone"),
        ("output.y.softmax=true", "as they are"),
        ("source.model=pipe.py:unfitted", "not fitted"),
        ("source.model=pipe.py:clusters", "neither a classifier nor a regressor"),
        ("source.model=pipe.py:margins", "CalibratedClassifierCV"),
        ("source.model=pipe.py:strange", "Odd"),
        ("source.model=pipe.py:rows", "missing 1 required"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    tabular: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    words: str,
) -> None:
    monkeypatch.chdir(tabular)
    assert _convert(tabular, "--set", setting) == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tabular / "out").exists()


def test_init_asks_the_estimator_what_it_takes(tabular: Path) -> None:
    recipe = tabular / "new.toml"
    source = str(tabular / "pipe.py:classifier")
    assert main(["convert", str(recipe), "--init", source]) == ExitCode.OK
    document = tomllib.loads(recipe.read_text())
    assert document["input"]["input"]["shape"] == [5]
    assert document["target"]["formats"] == ["onnx"]
    assert document["quantize"]["precisions"] == ["fp32"]
    assert "weights" not in document["source"]
    for name in ("train.npz", "evaluation.npz"):
        (tabular / name).write_bytes(b"")
    load_recipe(recipe)
