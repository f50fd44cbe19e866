"""Networks drawn at random from the executor's operators, against PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fakes.mlpackage import from_export

_SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # a failing network is small enough as drawn
    suppress_health_check=[HealthCheck.too_slow],
)


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


_SAME: dict[str, Callable[[int], nn.Module]] = {
    "batch_norm": nn.BatchNorm2d,
    "clamp": lambda c: Apply(lambda x: x.clamp(-0.7, 1.3)),
    "concat_halves": lambda c: Apply(lambda x: torch.cat([x[:, 1:], x[:, :1]], 1)),
    "conv": lambda c: nn.Conv2d(c, c, 3, padding=1),
    "conv_depthwise": lambda c: nn.Conv2d(c, c, 3, padding=1, groups=c),
    "conv_dilated": lambda c: nn.Conv2d(c, c, 3, padding=2, dilation=2, bias=False),
    "conv_pointwise": lambda c: nn.Conv2d(c, c, 1),
    "elu": lambda c: nn.ELU(0.7),
    "exp_of_tanh": lambda c: Apply(lambda x: torch.exp(torch.tanh(x))),
    "flip": lambda c: Apply(lambda x: torch.flip(x, [2])),
    "gelu": lambda c: nn.GELU(),
    "group_scale": lambda c: Apply(lambda x: x * x.mean((2, 3), keepdim=True)),
    "hardsigmoid": lambda c: nn.Hardsigmoid(),
    "hardswish": lambda c: nn.Hardswish(),
    "instance_norm": lambda c: nn.InstanceNorm2d(c, affine=True),
    "layer_norm": lambda c: Apply(lambda x: F.layer_norm(x, x.shape[-1:])),
    "leaky_relu": lambda c: nn.LeakyReLU(0.2),
    "logical": lambda c: Apply(lambda x: torch.where(x > 0.1, x, x * 0.3)),
    "max_pool_same": lambda c: nn.MaxPool2d(3, 1, 1),
    "prelu": lambda c: nn.PReLU(c, init=0.1),
    "relu": lambda c: nn.ReLU(),
    "relu6": lambda c: nn.ReLU6(),
    "sigmoid": lambda c: nn.Sigmoid(),
    "silu": lambda c: nn.SiLU(),
    "softmax": lambda c: nn.Softmax(1),
    "softplus": lambda c: nn.Softplus(),
    "sqrt_of_square": lambda c: Apply(lambda x: torch.sqrt(x * x + 0.1)),
    "transpose": lambda c: Apply(lambda x: x.transpose(2, 3)),
}
_SHRINK: dict[str, Callable[[int], nn.Module]] = {
    "avg_pool": lambda c: nn.AvgPool2d(2, 2),
    "avg_pool_padded": lambda c: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "conv_strided": lambda c: nn.Conv2d(c, c, 3, 2, 1),
    "max_pool": lambda c: nn.MaxPool2d(2, 2),
    "slice": lambda c: Apply(lambda x: x[:, :, ::2, ::2]),
}
_GROW: dict[str, Callable[[int], nn.Module]] = {
    "conv_transpose": lambda c: nn.ConvTranspose2d(c, c, 2, 2),
    "conv_transpose_padded": lambda c: nn.ConvTranspose2d(c, c, 3, 2, 1, output_padding=1),
    "nearest": lambda c: nn.Upsample(scale_factor=2, mode="nearest"),
    "bilinear": lambda c: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    "pad_reflect": lambda c: nn.ReflectionPad2d(1),
    "pad_zero": lambda c: nn.ZeroPad2d((1, 0, 2, 1)),
}
_LAYERS = {**_SAME, **_SHRINK, **_GROW}


def _network(names: list[str], channels: int) -> nn.Sequential:
    layers = []
    for name in names:
        layer = _LAYERS[name](channels)
        layers.append(Residual(layer) if name in _SAME and name.startswith("conv") else layer)
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(4))


def _calm(module: nn.Module) -> None:
    """Statistics and gains that are not the identity, small enough for fp16."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            lowest = 0.5 if "var" in name else -0.4
            tensor.data.uniform_(lowest, lowest + 0.8)


def _error(names: list[str], channels: int, seed: int, half: bool) -> float:
    torch.manual_seed(seed)
    module = _network(names, channels)
    rows = torch.randn(3, channels, 8, 8)
    module.eval()(rows)
    _calm(module)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        wanted = module(rows).numpy()
        program = from_export(module, (rows[:1],), Path(folder), half=half)
        (found,) = program.run({program.inputs[0].name: rows.numpy()}).values()
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _fits(names: list[str]) -> bool:
    """Whether an image of 8 by 8 stays one, and small."""
    return all(sum(name in kind for name in names) <= 2 for kind in (_SHRINK, _GROW))


_DRAWN = {
    "names": st.lists(st.sampled_from(sorted(_LAYERS)), min_size=2, max_size=7).filter(_fits),
    "channels": st.sampled_from([2, 3, 8]),
    "seed": st.integers(0, 2**16),
    "half": st.booleans(),
}


@settings(_SETTINGS, max_examples=8)
@given(**_DRAWN)
def test_random_networks(names: list[str], channels: int, seed: int, half: bool) -> None:
    assert _error(names, channels, seed, half) < (1e-2 if half else 1e-4)


@pytest.mark.slow
@settings(_SETTINGS, max_examples=60)
@given(**_DRAWN)
def test_many_random_networks(names: list[str], channels: int, seed: int, half: bool) -> None:
    assert _error(names, channels, seed, half) < (1e-2 if half else 1e-4)
