"""What every model source must do, the fake as well as the real ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fakes.source import FakeSource
from skerry.converter.source.base import ModelSource
from skerry.converter.source.pytorch import PyTorchSource
from skerry.converter.userfile import UserFunction
from skerry.devices.errors import InputError

_SHAPES = ((1, 8, 8),)


def pytorch(project: Path, weights: str = "net.safetensors", factory: str = "net") -> PyTorchSource:
    path = project / weights if weights else None
    return PyTorchSource(UserFunction(project / "model.py", factory), path, _SHAPES)


def state_dict(project: Path) -> PyTorchSource:
    torch.save(
        {
            "state_dict": {
                f"module.{k}": v for k, v in load_file(project / "net.safetensors").items()
            }
        },
        project / "net.th",
    )
    return pytorch(project, "net.th")


@pytest.fixture(params=["fake", "safetensors", "state dict"])
def source(request: pytest.FixtureRequest, project: Path) -> ModelSource:
    if request.param == "fake":
        return FakeSource(pytorch(project).module())
    return state_dict(project) if request.param == "state dict" else pytorch(project)


def test_the_module_is_ready_to_run_and_to_train(source: ModelSource, project: Path) -> None:
    module = source.module()
    assert not module.training
    rows = torch.linspace(-1, 1, 3 * 64).reshape(3, 1, 8, 8)
    assert module(rows).shape == (3, 4)
    torch.testing.assert_close(module(rows), pytorch(project).module()(rows))
    module(rows).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_each_module_is_new(source: ModelSource) -> None:
    one, other = source.module(), source.module()
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(other.parameters()).abs().sum() > 0


def test_it_says_what_it_is(source: ModelSource) -> None:
    assert source.name and source.kind
    assert all(path.is_file() for path in source.materials().values())


@pytest.mark.parametrize(
    ("weights", "factory", "words"),
    [
        ("torn.safetensors", "net", "cannot be read as safetensors"),
        ("torn.pt", "net", "cannot be read as a state dict"),
        ("pickled.pt", "net", "cannot be read as a state dict"),
        ("nan.safetensors", "net", "not finite"),
        ("net.safetensors", "wide", "has the shape"),
        ("net.safetensors", "other", "not the weights of this model"),
        ("", "fails", "out of luck"),
        ("", "text", "gave str"),
    ],
)
def test_what_cannot_be_used_is_named(
    project: Path, weights: str, factory: str, words: str
) -> None:
    good = (project / "net.safetensors").read_bytes()
    (project / "torn.safetensors").write_bytes(good[:-40])
    (project / "torn.pt").write_bytes(b"not a checkpoint")
    torch.save({"weights": nn.Linear(2, 2)}, project / "pickled.pt")
    state = load_file(project / "net.safetensors")
    save_file({**state, "0.weight": state["0.weight"] * float("nan")}, project / "nan.safetensors")
    with pytest.raises(InputError) as caught:
        pytorch(project, weights, factory).module()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
