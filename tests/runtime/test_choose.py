import pytest

from skerry.devices.errors import BundleError, UnsupportedError
from skerry.runtime.bundle.card import ArtifactSpec, BlobRef, Card, Format, TensorSpec, Tolerance
from skerry.runtime.choose import candidates, choose

REF = BlobRef("sha256:" + "0" * 64, 0)


def _card(*names: str) -> Card:
    specs = (TensorSpec("x", "float32", (-1, 1)),)

    def artifact(name: str) -> ArtifactSpec:
        kind, _, precision = name.partition("-")
        form: Format = {"onnx": "onnx", "tflite": "tflite", "coreml": "coreml"}[kind]  # type: ignore[assignment]
        return ArtifactSpec(name, form, precision, REF, name, ("x",), ("x",), Tolerance(0.0))

    return Card("m", "1", specs, specs, tuple(artifact(name) for name in names), REF)


EVERY = _card("onnx-fp32", "tflite-int8", "onnx-int8", "coreml-int8", "tflite-fp32", "onnx-odd")


@pytest.mark.parametrize(
    ("formats", "chosen"),
    [
        (["onnx", "tflite"], "onnx-int8"),
        (["tflite", "onnx"], "tflite-int8"),
        (["tflite"], "tflite-int8"),
        (["coreml"], "coreml-int8"),
    ],
)
def test_the_best_precision_in_the_preferred_format(formats: list[str], chosen: str) -> None:
    assert choose(EVERY, formats).name == chosen


def test_precision_comes_before_format() -> None:
    assert choose(_card("onnx-fp32", "tflite-int8"), ["onnx", "tflite"]).name == "tflite-int8"
    chosen = choose(EVERY, ["onnx", "tflite"], precisions=["fp32"])
    assert chosen.name == "onnx-fp32"


def test_an_unknown_precision_comes_last_but_is_run() -> None:
    assert choose(_card("onnx-odd", "onnx-fp32"), ["onnx"]).name == "onnx-fp32"
    assert choose(_card("onnx-odd"), ["onnx"]).name == "onnx-odd"


def test_what_was_asked_for_is_taken_or_refused() -> None:
    assert choose(EVERY, ["onnx"], artifact="onnx-fp32").name == "onnx-fp32"
    with pytest.raises(UnsupportedError, match="coreml-int8"):
        choose(EVERY, ["onnx", "tflite"], artifact="coreml-int8")
    with pytest.raises(BundleError, match="there are"):
        choose(EVERY, ["onnx"], artifact="onnx-int3")
    with pytest.raises(UnsupportedError, match="run here: none"):
        choose(EVERY, [])


def test_candidates_share_the_best_precision() -> None:
    found = [item.name for item in candidates(EVERY, ["tflite", "onnx"])]
    assert found == ["tflite-int8", "onnx-int8"]
    assert [item.name for item in candidates(EVERY, ["onnx"])] == ["onnx-int8"]
