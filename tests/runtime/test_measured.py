"""Choosing by measuring, and remembering it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import make_bundle
from skerry.devices.errors import GoldenError, UnsupportedError
from skerry.runtime.bundle.card import ArtifactSpec, BlobRef, Tolerance
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.engine.base import EngineOptions
from skerry.runtime.measured import (
    Candidate,
    Choices,
    MeasureLimits,
    Measurement,
    measure,
    variants,
)
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime

X = np.ones((1, 4), np.float32)


def _spec(form: str) -> ArtifactSpec:
    ref = BlobRef("sha256:" + "0" * 64, 1)
    return ArtifactSpec(f"{form}-int8", form, "int8", ref, "f", (), (), Tolerance(1.0))  # type: ignore[arg-type]


def test_what_is_worth_measuring() -> None:
    two = EngineOptions(threads=2)
    one, both = EngineOptions(threads=1), [_spec("onnx"), _spec("tflite")]
    assert variants(both, one, []) == [Candidate("onnx-int8", one), Candidate("tflite-int8", one)]
    found = variants(both, two, ["P"])
    assert found[0] == Candidate("onnx-int8", two)
    assert set(found) == {
        Candidate("onnx-int8", two),
        Candidate("onnx-int8", one),
        Candidate("onnx-int8", EngineOptions(threads=2, providers=("P",))),
        Candidate("tflite-int8", two),
        Candidate("tflite-int8", one),
    }
    asked = EngineOptions(providers=("Q",))
    assert variants(both[:1], asked, ["P"]) == [Candidate("onnx-int8", asked)]


def _measured(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float | None]) -> list[str]:
    """Artifacts in the order that `measure` gives for seconds each takes; None fails to load."""
    monkeypatch.setattr("skerry.runtime.measured._seconds", lambda call, limits: call())
    open_now: list[str] = []

    def timed(one: Candidate) -> Callable[[], object]:
        took = seconds[one.artifact]
        if took is None:
            raise UnsupportedError("cannot", where=one.artifact)
        assert open_now == []
        open_now.append(one.artifact)
        return lambda: took

    found = measure(
        [Candidate(name, EngineOptions()) for name in seconds],
        timed,
        open_now.pop,
        MeasureLimits(gain=1.1),
    )
    assert open_now == []
    return [one.candidate.artifact for one in found]


def test_the_quickest_is_chosen_if_it_gains_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _measured(monkeypatch, {"a": 2.0, "b": 1.0, "c": 3.0}) == ["b", "a", "c"]
    assert _measured(monkeypatch, {"a": 1.05, "b": 1.0}) == ["a", "b"]
    assert _measured(monkeypatch, {"a": None, "b": 2.0, "c": 1.0}) == ["c", "b", "a"]
    with pytest.raises(UnsupportedError, match="a: cannot"):
        _measured(monkeypatch, {"a": None, "b": None})


@pytest.mark.parametrize("quick", ["onnx-fp32", "tflite-fp32"])
def test_it_is_measured_once_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: str
) -> None:
    timed: list[str] = []

    def seconds(call: object, limits: MeasureLimits) -> float:
        name = call.func.__self__._engine.name  # type: ignore[attr-defined]
        timed.append(name)
        return 1.0 if ("litert" in name) == (quick == "tflite-fp32") else 2.0

    monkeypatch.setattr("skerry.runtime.measured._seconds", seconds)
    path = make_bundle(tmp_path / "b", formats=("onnx", "tflite"))
    options = RuntimeOptions(measure=Choices(tmp_path / "state" / "measured.json"))
    for _ in range(2):
        runtime = Runtime.open(path, options)
        assert runtime.info().artifact == quick  # type: ignore[union-attr]
        runtime.predict({"x": X})
        runtime.close()
    assert len(timed) == 2
    other = Bundle.open(make_bundle(tmp_path / "c", version="2", formats=("onnx", "tflite")))
    Runtime(options).prepare(other).close()
    assert len(timed) == 4
    other.blobs.remove(other.card.artifact("tflite-fp32").blob.descriptor().digest)
    assert Runtime(options).prepare(other).artifact.name == "onnx-fp32"


def test_what_fails_its_golden_test_is_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skerry.runtime.measured._seconds", lambda call, limits: 1.0)
    path = make_bundle(tmp_path / "b", formats=("onnx", "tflite"), golden_error=1.0)
    with pytest.raises(GoldenError):
        Runtime().prepare(Bundle.open(path))
    with pytest.raises(GoldenError):
        Runtime(RuntimeOptions(measure=Choices(None))).prepare(Bundle.open(path))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"k": 1}', '{"k": [{}]}', "\xff", " " * 2000])
def test_a_damaged_memory_is_done_without(tmp_path: Path, text: str) -> None:
    path = tmp_path / "measured.json"
    path.write_text(text)
    choices = Choices(path, MeasureLimits(file_bytes=1000, remembered=2))
    assert choices.get("k") is None
    for key in ("a", "b", "c"):
        choices.put(key, [Measurement(Candidate("onnx-int8", EngineOptions(cpus=(1,))), 0.5)])
    assert choices.get("a") is None
    found = choices.get("c")
    assert found is not None
    assert found[0].candidate == Candidate("onnx-int8", EngineOptions(cpus=(1,)))


def test_a_disk_that_takes_nothing_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    choices = Choices(tmp_path / "file" / "measured.json")
    choices.put("k", [])
    assert choices.get("k") is None
