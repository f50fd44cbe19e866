"""Noise by layer points at the layer that hurts."""

import torch
from torch import nn

from skerry.converter.layers import LayerNoise, layer_noise
from skerry.converter.quantize import calibrate

_ROWS = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def model(*, outlier: bool) -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
    if outlier:  # a channel that takes the whole range, and that the next layer ignores
        with torch.no_grad():
            first.bias[0] = 400.0
            second.weight[:, 0] = 0.0
    return nn.Sequential(
        first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()


def noise(*, outlier: bool) -> dict[str, LayerNoise]:
    quantized = calibrate(model(outlier=outlier), (_ROWS,), [(_ROWS,)])
    return {one.layer: one for one in layer_noise(quantized, (_ROWS,))}


def test_every_layer_has_its_noise() -> None:
    found = noise(outlier=False)
    assert [found[name].operation for name in ("0", "2", "5")] == ["conv2d", "conv2d", "linear"]
    assert all(one.own_db > 25 for one in found.values())
    assert found["0"].own_db == found["0"].gathered_db
    assert found["5"].gathered_db < found["5"].own_db


def test_the_layer_that_hurts_is_found() -> None:
    good, bad = noise(outlier=False), noise(outlier=True)
    assert min(bad, key=lambda name: bad[name].own_db) == "2"
    assert bad["2"].own_db < good["2"].own_db - 20
    assert bad["5"].own_db > 25 > bad["5"].gathered_db
