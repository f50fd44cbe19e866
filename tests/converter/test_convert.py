"""`skerry convert`, from a recipe to a bundle."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skerry.cli.main import main
from skerry.devices.errors import ExitCode
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime

_STEPS = """
[[step]]
kind = "distill"
student = "model.py:wide"
epochs = 4
batch = 64
learning_rate = 0.01

[[step]]
kind = "prune"
ratio = 0.5
epochs = 2
"""


def convert(project: Path, out: Path, *words: str) -> int:
    return main(["convert", str(project / "recipe.toml"), "--out", str(out), "--json", *words])


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_three_formats_from_one_recipe_the_same_twice(project: Path) -> None:
    recipe = project / "recipe.toml"
    recipe.write_text(
        recipe.read_text().replace('["onnx"]', '["onnx", "tflite", "coreml"]') + _STEPS
    )
    gates = ["--set", "gate.parity=2.0", "--set", "gate.bytes_ratio=4.0"]
    assert convert(project, project / "one", *gates) == ExitCode.OK
    assert convert(project, project / "two", *gates) == ExitCode.OK
    assert files(project / "one" / "bundle") == files(project / "two" / "bundle")
    assert files(project / "one" / "model") == files(project / "two" / "model")

    found = result(project / "one")
    assert found["passed"]
    assert [one["name"] for one in found["artifacts"]] == [
        "onnx-int8",
        "tflite-int8",
        "coreml-int8",
    ]
    assert [step["kind"] for step in found["steps"]] == ["distill", "prune"]
    for one in found["artifacts"]:
        assert (project / "one" / one["path"]).stat().st_size == one["bytes"]
        assert one["reference_agreement"] >= 0.97
        assert one["snr_db"] > 15
        assert set(one["gates"]) == {"parity", "bytes_ratio"}
        assert (one["latency_ms"] is None) == (one["format"] == "coreml")

    bundle = Bundle.open(project / "one" / "bundle")
    bundle.verify()
    assert str(bundle.manifest.digest) == found["manifest"]
    assert bundle.reference()
    for artifact in ("onnx-int8", "tflite-int8"):
        runtime = Runtime.open(
            project / "one" / "bundle", RuntimeOptions(artifact=artifact, warm_up_runs=1)
        )
        scores = runtime.predict({"image": np.zeros((3, 8, 8, 1), np.uint8)})["scores"]
        runtime.close()
        assert scores.shape == (3, 4)


def test_a_failed_gate_saves_everything_and_says_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = project / "out"
    assert convert(project, out, "--set", "gate.bytes_ratio=0.001") == ExitCode.GATE_FAILED
    said = capsys.readouterr()
    assert json.loads(said.out) == result(out)
    assert "onnx-int8: bytes_ratio is" in said.err
    found = result(out)
    assert not found["passed"]
    assert not found["artifacts"][0]["gates"]["bytes_ratio"]["passed"]
    bundle = Bundle.open(out / "bundle")
    assert bundle.card.artifacts[0].metrics["gates_passed"] == 0.0
    page = (out / "report.html").read_text()
    assert "a gate failed" in page
    assert "http://" not in page and "https://" not in page
    statement = json.loads(bundle.document("provenance.json"))
    assert statement["subject"][0]["name"] == "onnx-int8"
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {one["name"] for one in materials} == {
        "data.py",
        "model.py",
        "net.safetensors",
        "recipe.toml",
    }
    assert str(project) not in bundle.document("provenance.json").decode()
    assert json.loads(bundle.document("sbom.cdx.json"))["specVersion"] == "1.6"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("input.image.shape=[3, 8, 8]", "input.image.shape"),
        ("source.model=model.py:other", "not the weights of this model"),
        ("data.evaluation=data.py:empty", "the data set is empty"),
        ("data.evaluation=data.py:out_of_range", "out of range"),
        ("data.calibration.from=data.py:empty", "the data set is empty"),
        ('model.labels=["a", "b"]', "2 labels for 4 classes"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    words: str,
) -> None:
    monkeypatch.chdir(project)
    before = sorted(project.iterdir())
    assert convert(project, project / "out", "--set", override) == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert [path for path in sorted(project.iterdir()) if path.name != "__pycache__"] == before


def test_a_second_run_that_changes_a_gate_does_no_work_again(project: Path) -> None:
    recipe, out = project / "recipe.toml", project / "out"
    recipe.write_text(recipe.read_text() + _STEPS)
    assert convert(project, out) == ExitCode.OK
    first, kept = result(out), files(out / "cache")
    assert convert(project, out, "--set", "gate.bytes_ratio=0.001") == ExitCode.GATE_FAILED
    second = result(out)
    assert files(out / "cache") == kept
    assert second["steps"] == first["steps"]  # with the seconds they took
    assert second["artifacts"][0]["latency_ms"] == first["artifacts"][0]["latency_ms"]
    assert second["artifacts"][0]["sha256"] == first["artifacts"][0]["sha256"]
    assert second["artifacts"][0]["gates"] != first["artifacts"][0]["gates"]

    assert convert(project, out, "--set", "quantize.calibrator=minmax") == ExitCode.OK
    third = result(out)
    assert third["steps"] == first["steps"]
    assert third["artifacts"][0]["sha256"] != first["artifacts"][0]["sha256"]
    model = project / "model.py"
    model.write_text(model.read_text() + "\n# changed\n")
    assert convert(project, out) == ExitCode.OK
    trained = {name for name in kept if name.endswith("record.json")}
    assert trained and not trained & set(files(out / "cache"))
    assert result(out)["artifacts"][0]["sha256"] == first["artifacts"][0]["sha256"]


_NOT_FINITE = """
from torch import nn
import model

class Logarithm(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = model.net()
    def forward(self, image):
        return self.net(image).log()

class Overflow(Logarithm):
    def forward(self, image):
        return (self.net(image).square() + 2) * 6e4
"""


def test_values_that_are_not_finite_are_named_and_leave_the_release_as_it_was(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = project / "deep" / "out"
    assert convert(project, out) == ExitCode.OK
    around = out.parent.stat().st_mtime_ns
    before = {name: one for name, one in files(out).items() if not name.startswith("cache/")}
    (project / "odd.py").write_text(_NOT_FINITE)
    recipe = (project / "recipe.toml").read_text()
    odd = recipe.replace('weights = "net.safetensors"', "")
    capsys.readouterr()
    for factory, precision, code, words in (
        ("Logarithm", "int8", ExitCode.BAD_INPUT, "odd.py:Logarithm: the output scores is not"),
        ("Overflow", "fp16", ExitCode.GATE_FAILED, "coreml-fp16: the output scores is not"),
    ):
        text = odd.replace("model.py:net", f"odd.py:{factory}")
        if precision == "fp16":  # which ONNX Runtime computes in float32 here
            text = text.replace('["int8"]', '["fp16"]').replace('["onnx"]', '["coreml"]')
        (project / "recipe.toml").write_text(text)
        assert convert(project, out) == code, capsys.readouterr().err
        error = capsys.readouterr().err
        assert words in error and "of 96 rows" in error and error.count("\n") == 1
        after = {name: one for name, one in files(out).items() if not name.startswith("cache/")}
        assert after == before
    assert out.parent.stat().st_mtime_ns == around  # nothing was made beside the folder


@pytest.mark.slow
def test_resizing_and_softmax_are_in_every_artifact(project: Path) -> None:
    recipe = project / "recipe.toml"
    text = recipe.read_text().replace('["onnx"]', '["onnx", "tflite", "coreml"]')
    text = text.replace('layout = "nhwc"', 'layout = "nhwc"\nresize_from = [16, 12]')
    text = text.replace("[output.scores]", "[output.scores]\nsoftmax = true")
    recipe.write_text(text.replace("data.py:", "large.py:"))
    (project / "large.py").write_text(
        "import numpy as np, data\n"
        "def _large(rows):\n"
        "    image = rows['image'].repeat(2, 1).repeat(2, 2)[:, :, 2:14]\n"
        "    return {**rows, 'image': np.ascontiguousarray(image)}\n"
        "def train(): return _large(data.train())\n"
        "def held_out(): return _large(data.held_out())\n"
    )
    assert convert(project, project / "out", "--set", "gate.snr_db=20") == ExitCode.OK
    for one in result(project / "out")["artifacts"]:
        assert one["reference_agreement"] >= 0.97
    card = Bundle.open(project / "out" / "bundle").card
    assert card.inputs[0].shape == (-1, 16, 12, 1)
    runtime = Runtime.open(project / "out" / "bundle", RuntimeOptions(warm_up_runs=1))
    scores = runtime.predict({"image": np.full((2, 16, 12, 1), 90, np.uint8)})["scores"]
    runtime.close()
    np.testing.assert_allclose(scores.sum(-1), 1.0, atol=0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_conversion_that_is_stopped_leaves_nothing_unfinished(
    project: Path, number: signal.Signals
) -> None:
    recipe, out = project / "recipe.toml", project / "out"
    steps = '[[step]]\nkind = "finetune"\nepochs = 100000\n'
    recipe.write_text(recipe.read_text() + steps)
    words = [sys.executable, "-m", "skerry.cli.main", "convert", str(recipe), "--out", str(out)]
    environment = {**os.environ, "SKERRY_PROGRESS": "plain"}
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("loading model and data: done"):
            break
    child.send_signal(number)
    said = child.stderr.read()
    assert child.wait(60) == 130, said
    assert "interrupted" in said
    assert not (out / "bundle").exists()
    assert not list(out.glob(".*"))
    assert not list(out.glob("cache/.part-*"))


@pytest.mark.slow
def test_everything_that_is_declared_is_in_every_artifact(project: Path) -> None:
    """uint8 pictures of another size, channels last, scaled and normalised; softmax and top-2."""
    recipe = project / "recipe.toml"
    text = recipe.read_text().replace('["onnx"]', '["onnx", "tflite", "coreml"]')
    text = text.replace('dtype = "uint8"', 'dtype = "uint8"\nresize_from = [16, 16]')
    text = text.replace("[output.scores]", "[output.scores]\nsoftmax = true\ntop = 2")
    recipe.write_text(text)
    data = project / "data.py"
    large = '"image": images.repeat(2, 1).repeat(2, 2)'
    data.write_text(data.read_text().replace('"image": images', large))
    assert convert(project, project / "out", "--set", "gate.agreement=0.9") == ExitCode.OK
    bundle = Bundle.open(project / "out" / "bundle")
    card = bundle.card
    assert card.labels == ("nw", "ne", "sw", "se")
    assert [(one.name, one.dtype, one.shape) for one in card.inputs] == [
        ("image", "uint8", (-1, 16, 16, 1))
    ]
    assert [(one.name, one.dtype, one.shape) for one in card.outputs] == [
        ("scores", "float32", (-1, 4)),
        ("scores_top", "float32", (-1, 2)),
        ("scores_labels", "int32", (-1, 2)),
    ]
    golden = bundle.golden()
    rows = {"image": golden["input/image"]}
    for artifact in ("onnx-int8", "tflite-int8", "coreml-int8"):
        answers = {
            name: golden[f"output/{artifact}/{name}"]
            for name in ("scores", "scores_top", "scores_labels")
        }
        if not artifact.startswith("coreml"):  # which no engine runs here
            options = RuntimeOptions(artifact=artifact, warm_up_runs=1)
            runtime = Runtime.open(project / "out" / "bundle", options)
            answers = runtime.predict(rows)
            runtime.close()
        scores = np.asarray(answers["scores"])
        assert np.allclose(scores.sum(1), 1, atol=1e-3)
        assert np.array_equal(np.sort(scores)[:, :1:-1], answers["scores_top"])
        picked = np.take_along_axis(scores, np.asarray(answers["scores_labels"], np.int64), 1)
        assert np.array_equal(picked, answers["scores_top"])


def test_more_than_there_are_cannot_be_the_largest(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(project, project / "out", "--set", "output.scores.top=5") == ExitCode.BAD_INPUT
    assert "output.scores.top: 5 of [4]" in capsys.readouterr().err.replace("(", "")
