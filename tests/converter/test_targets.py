"""A profile's row in the table of targets decides what the emitted files hold."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from fakes.networks import RESIDUAL_SIGNATURE, pictures, residual
from skerry.converter.emit import Emitted, Tuning, emit
from skerry.converter.models import scheme_of
from skerry.converter.quantize import QuantizedModel, calibrate
from skerry.converter.recipe_file import load_recipe
from skerry.devices.targets import TARGETS

_EXAMPLE = (pictures(8, seed=0),)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _quantized(project: Path, profile: str) -> QuantizedModel:
    recipe = load_recipe(project / "recipe.toml", [f"target.profile={profile}"]).recipe
    return calibrate(residual(), _EXAMPLE, [(pictures(32, 1),)], scheme_of(recipe))


def _onnx(project: Path, profile: str) -> Emitted:
    model, tuning = _quantized(project, profile), Tuning(TARGETS[profile])
    return emit("onnx", "int8", model, _EXAMPLE, RESIDUAL_SIGNATURE, project, tuning)


def _constants(path: Path) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def _matrices(path: Path) -> list[np.ndarray]:
    return [one for one in _constants(path).values() if one.dtype == np.int8 and one.ndim > 1]


@pytest.mark.parametrize(("profile", "largest"), [("x86-64", 63), ("x86-64-vnni", 127)])
def test_weights_are_as_wide_as_the_dot_product_allows(
    project: Path, profile: str, largest: int
) -> None:
    tuning = Tuning(TARGETS[profile])
    static = _onnx(project, profile).path
    dynamic = emit(
        "onnx", "int8-dynamic", residual(), _EXAMPLE, RESIDUAL_SIGNATURE, project, tuning
    ).path
    for path in (static, dynamic):
        found = _matrices(path)
        assert found
        assert {int(np.abs(one).max()) for one in found} == {largest}


@pytest.mark.parametrize("profile", ["x86-64-vnni", "aarch64-dotprod"])
def test_activations_have_the_sign_that_the_kernels_like(project: Path, profile: str) -> None:
    made = _onnx(project, profile)
    constants = _constants(made.path)
    nodes = onnx.load(made.path).graph.node
    zeros = [constants[n.input[2]] for n in nodes if n.op_type == "QuantizeLinear"]
    assert {one.dtype.name for one in zeros} == {TARGETS[profile].activations}


def test_the_sign_changes_no_answer(project: Path) -> None:
    rows = pictures(40, seed=7).numpy()
    answers = []
    for profile in ("x86-64-vnni", "aarch64-dotprod"):
        path = str(_onnx(project, profile).path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"image": rows})[0])
    step = np.abs(answers[0]).max() / 127
    assert np.abs(answers[0] - answers[1]).max() <= 2 * step


def test_one_scale_for_a_weight_where_hardware_takes_no_more(project: Path) -> None:
    constants = _constants(_onnx(project, "npu-per-tensor").path)
    scales = [one for name, one in constants.items() if "scale" in name and one.size > 1]
    assert all(len(np.unique(one)) == 1 for one in scales)
    weights = [p for p in _quantized(project, "npu-per-tensor").decided.modules() if _is_weight(p)]
    assert weights
    assert all(len(torch.unique(one.scale)) == 1 for one in weights)


def _is_weight(part: torch.nn.Module) -> bool:
    return getattr(part, "ch_axis", None) is not None and hasattr(part, "scale")
