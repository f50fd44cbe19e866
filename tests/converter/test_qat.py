"""Quantization-aware training: it gains back what calibration lost, and every format takes it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fakes.networks import Uneven, lines
from skerry.converter.quantize import QuantizedModel, Scheme, calibrate
from skerry.converter.quantize.constants import constant
from skerry.converter.quantize.observers import Decided
from skerry.converter.quantize.qat import Learning, Trainable, settled
from skerry.converter.quantize.twin import decided_layer, decision_of
from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Finetune, Qat
from skerry.converter.steps.finetune import finetune
from skerry.converter.steps.qat import train_quantized
from skerry.converter.structure import Structure


def bench(source: nn.Module) -> Workbench:
    torch.set_num_threads(1)
    return Workbench(
        source=source,
        training=lines(),
        seed=5,
        factory=lambda name, weights: source,
        advance=lambda detail: None,
    )


def accuracy(model: object) -> float:
    training = lines()
    with torch.no_grad():
        scores = model(*training.inputs)  # type: ignore[operator]
    return 100 * float((scores.argmax(1) == training.labels).float().mean())


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(1)
    model = Uneven().eval()
    finetune(Finetune(epochs=25, batch=32, learning_rate=2e-2), model, bench(model))
    model.spread()
    return model


@pytest.fixture(scope="module")
def calibrated(trained: nn.Module) -> QuantizedModel:
    (images,) = lines().inputs
    return calibrate(trained, (images[:2],), [(images,)], Scheme(per_channel=False))


def test_training_gains_back_more_than_half_without_a_label(
    trained: nn.Module, calibrated: QuantizedModel
) -> None:
    exact, lost = accuracy(trained), accuracy(calibrated)
    assert exact - lost > 10  # the model is built to lose
    place = bench(trained)
    unlabelled = replace(place.training, labels=torch.zeros(256, dtype=torch.long))
    model = Trainable(calibrated, scales=True)
    config = Qat(epochs=12, batch=32, learning_rate=3e-3)
    history = train_quantized(
        config, model, trained, replace(place, training=unlabelled), softmax=False
    )
    gained = accuracy(settled(model, calibrated))
    print(f"float {exact:.1f}, calibrated {lost:.1f}, trained {gained:.1f}")
    assert history.loss[-1] < history.loss[0]
    assert gained - lost > (exact - lost) / 2


def test_it_begins_where_calibration_left_off(calibrated: QuantizedModel) -> None:
    (images,) = lines().inputs
    model = Trainable(calibrated, scales=True)
    with torch.no_grad():
        wanted = calibrated.decided(images)
        close = torch.isclose(model(images), wanted, rtol=1e-3, atol=1e-3)
        assert float(close.float().mean()) > 0.98  # the rest lies on the edge between integers
        torch.testing.assert_close(settled(model, calibrated)(images), calibrated(images))


def test_scales_learn_as_a_share_and_tied_ones_stay_tied() -> None:
    begin = Decided(torch.full((3,), 0.1), torch.zeros(3), axis=0, lowest=-127, highest=127)
    learning = Learning(begin, scales=True)
    weight = torch.tensor([[20.0, 0.04], [0.02, 0.05], [0.06, 1.0]], requires_grad=True)
    learning(weight).sum().backward()
    assert learning.log_scale.numel() == 1 and float(learning.log_scale.grad) != 0
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]  # clipped ones stop
    again = learning.decide()
    assert again.scale.shape == (3,) and torch.allclose(again.scale, begin.scale)


def test_biases_fit_wherever_training_took_the_scales(calibrated: QuantizedModel) -> None:
    trainable = Trainable(calibrated, scales=True)
    with torch.no_grad():
        for one in trainable.graph.modules():
            if isinstance(one, Learning) and one.axis is not None:
                one.log_scale -= 40
    decided = settled(trainable, calibrated).decided
    layers = [one for node in decided.graph.nodes if (one := decided_layer(decided, node))]
    assert layers
    for layer, weight in layers:
        assert layer.bias is not None
        step = decision_of(decided, layer.x).scale * weight.scale
        assert float((constant(decided, layer.bias).abs() / step).max()) <= 2**30 * (1 + 1e-6)
        assert len(weight.scale.unique()) == 1  # one for the tensor, as the scheme says


def test_zeros_of_a_sparse_model_stay(trained: nn.Module) -> None:
    sparse = Uneven()
    sparse.load_state_dict(trained.state_dict())
    with torch.no_grad():
        sparse.point.weight[:, ::2] = 0
    (images,) = lines().inputs
    begin = calibrate(sparse.eval(), (images[:2],), [(images,)], Scheme())
    model = Trainable(begin, scales=True)
    names = tuple(name for name, one in model.named_parameters() if one.ndim > 1)
    Structure(sparse=names).remember(model)
    train_quantized(Qat(epochs=1, batch=64), model, sparse, bench(sparse), softmax=False)
    (name,) = [name for name in names if "point" in name]
    weight = dict(model.named_parameters())[name]
    assert bool((weight[:, ::2] == 0).all()) and bool((weight[:, 1::2] != 0).any())


_RECIPE = """
[[step]]
kind = "qat"
epochs = 1
batch = 64
learning_rate = 1e-3
"""


@pytest.mark.slow
def test_a_recipe_that_ends_in_it_gives_three_formats_that_agree(project: Path) -> None:
    import json

    from skerry.cli.main import main

    recipe = project / "recipe.toml"
    text = recipe.read_text().replace('["onnx"]', '["onnx", "tflite", "coreml"]')
    recipe.write_text(text + _RECIPE)
    words = ["--set", "gate.parity=2.0", "--set", "gate.accuracy_drop=3.0"]
    out = project / "out"
    assert main(["convert", str(recipe), "--out", str(out), *words]) == 0
    result = json.loads((out / "result.json").read_text())
    assert [step["kind"] for step in result["steps"]] == ["qat"]
    assert len(result["steps"][0]["loss"]) == 1
    assert {one["format"] for one in result["artifacts"]} == {"onnx", "tflite", "coreml"}
    again = main(["convert", str(recipe), "--out", str(out), *words])
    assert again == 0
    assert json.loads((out / "result.json").read_text())["steps"] == result["steps"]


def test_training_alone_leaves_what_a_conversion_takes_up(project: Path) -> None:
    from skerry.cli.main import main

    recipe = project / "recipe.toml"
    recipe.write_text(recipe.read_text() + _RECIPE)
    out = project / "trained"
    assert main(["train", str(recipe), "--out", str(out)]) == 0
    state = out / "model" / "quantized.safetensors"
    assert state.is_file() and (out / "steps.json").is_file()
    taken = f'step=[{{kind="qat", epochs=0, start="{state}"}}]'
    assert main(["train", str(recipe), "--out", str(project / "again"), "--set", taken]) == 0
    assert (
        project / "again" / "model" / "quantized.safetensors"
    ).read_bytes() == state.read_bytes()
