import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fakes.bundles import make_bundle
from skerry.bench.single_stream import Plan, Subject, measure
from skerry.cli.main import main
from skerry.devices.errors import GoldenError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", formats=("onnx", "tflite"))


def test_each_artifact_is_measured_checked_and_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "result.json"
    words = ["bench", str(bundle), "--seconds", "0.05", "--queries", "20", "--out", str(kept)]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads(kept.read_text()) == result
    first, second = result["subjects"]
    assert (first["name"], second["name"]) == ("onnx-fp32", "tflite-fp32")
    assert first["queries"] == second["queries"] >= 20
    assert first["checked"] and first["digest"].startswith("sha256:")
    assert first["ratio"] is None and second["ratio"]["value"] > 0
    assert result["machine"]["cores"] >= 1


def test_an_unknown_artifact_is_bad_input(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle), "--artifact", "onnx-int3"]) == 2
    assert "there are: onnx-fp32, tflite-fp32" in capsys.readouterr().err


def test_a_wrong_answer_is_no_result() -> None:
    def check(answers: object) -> None:
        raise GoldenError("differs from golden")

    subject = Subject("x", "sha256:" + "0" * 64, 1, "none", lambda q: dict(q), [{}], check)
    with pytest.raises(GoldenError):
        measure([subject], Plan(seconds=0, queries=1))


def test_subjects_take_turns() -> None:
    order: list[str] = []

    def subject(name: str) -> Subject:
        def call(query: object) -> dict[str, np.ndarray]:
            order.append(name)
            return {}

        return Subject(name, "", 1, "none", call, [{}], lambda answers: None)

    result = measure([subject("a"), subject("b")], Plan(seconds=0, queries=5, warm_up=0))
    assert order == ["a", "b"] + ["a", "b"] * 5
    assert msgspec.json.decode(msgspec.json.encode(result))["plan"] == "single-stream"
