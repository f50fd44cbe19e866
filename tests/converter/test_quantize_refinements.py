"""Each method on a model that needs it: it must lose less than without."""

import pytest
import torch
from torch import nn

from fakes.networks import pictures, residual
from skerry.converter.quantize import Scheme, calibrate
from skerry.converter.quantize.capture import capture
from skerry.converter.quantize.equalize import equalize, find_pairs
from skerry.converter.quantize.fold import fold_linear
from skerry.converter.quantize.observers import Decided
from skerry.devices.errors import UnsupportedError


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


class _Separable(nn.Module):
    """Pointwise and depthwise in turn, as mobile networks are."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def _lopsided():
    """A separable network whose channels span four powers of ten, to no effect on its answers."""
    torch.manual_seed(1)
    module = _Separable().eval()
    factor = torch.logspace(-2, 2, 16)
    first, second, third = module.body[0], module.body[2], module.body[4]
    with torch.no_grad():
        first.weight.mul_(factor.view(-1, 1, 1, 1))
        first.bias.mul_(factor)
        second.weight.div_(factor.flip(0).view(-1, 1, 1, 1))
        second.bias.copy_(second.bias * factor / factor.flip(0))
        third.weight.mul_((factor.flip(0) / factor).view(1, -1, 1, 1))
    return module


def _rows(count, seed):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def _noise(module, scheme, calibration, held_out):
    quantized = calibrate(module, calibration, [calibration], scheme)
    with torch.no_grad():
        return float((quantized(held_out) - module(held_out)).pow(2).mean())


def test_equalization_leaves_the_function_alone():
    module = _lopsided()
    graph_module = capture(module, (_rows(4, 0),))
    fold_linear(graph_module)
    assert len(find_pairs(graph_module)) == 2
    equalize(graph_module)
    x = _rows(8, 1)
    with torch.no_grad():
        assert torch.allclose(graph_module(x), module(x), atol=1e-4)


def test_equalization_saves_per_tensor_weights():
    module, calibration, held_out = _lopsided(), (_rows(64, 0),), _rows(64, 1)
    plain = _noise(module, Scheme(per_channel=False), calibration, held_out)
    scheme = Scheme(per_channel=False, refinements=("equalization",))
    assert _noise(module, scheme, calibration, held_out) < plain / 10


def test_bias_correction_takes_a_shift_away():
    module, calibration = _lopsided(), (_rows(256, 0),)
    held_out = _rows(256, 1)

    def shift(scheme):
        quantized = calibrate(module, calibration, [calibration], scheme)
        with torch.no_grad():
            return float((quantized(held_out) - module(held_out)).mean(0).abs().max())

    rough = Scheme(per_channel=False)
    corrected = Scheme(per_channel=False, refinements=("bias_correction",))
    assert shift(corrected) < shift(rough) / 2


def test_learned_rounding_beats_the_nearest(monkeypatch):
    # Four bits make the choice of rounding matter; the scheme itself has eight.
    monkeypatch.setattr(Scheme, "weight_limit", property(lambda self: 7))
    torch.manual_seed(2)
    module, calibration = _Separable().eval(), (_rows(256, 0),)
    held_out = _rows(256, 1)
    nearest = _noise(module, Scheme(), calibration, held_out)
    learned = _noise(module, Scheme(refinements=("adaround",)), calibration, held_out)
    assert learned < 0.7 * nearest


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(8, 6, 3, padding=1, groups=2), (8, 6, 6)),
        (nn.Conv1d(8, 6, 3, stride=2, dilation=2), (8, 16)),
        (nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1), (8, 6, 6)),
        (nn.ConvTranspose2d(8, 6, 3, groups=2), (8, 6, 6)),
        (nn.Linear(12, 6), (5, 12)),
    ],
    ids=["grouped", "conv1d", "transposed", "transposed, grouped", "linear over positions"],
)
def test_rounding_is_learned_for_every_kind_of_layer(monkeypatch, layer, shape):
    monkeypatch.setattr(Scheme, "weight_limit", property(lambda self: 7))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for one in layer.parameters():
            one.copy_(torch.randn(one.shape, generator=generator))
    # Neighbours are alike, as in pictures: then errors of one weight can make up for another's.
    rows = [torch.randn(256, *shape, generator=generator).cumsum(-1).cumsum(-2) for _ in range(2)]
    nearest = _noise(layer.eval(), Scheme(), (rows[0],), rows[1])
    learned = _noise(layer, Scheme(refinements=("adaround",)), (rows[0],), rows[1])
    assert learned < 0.7 * nearest


def test_refinements_leave_scales_as_decided():
    batches = [(pictures(32, seed),) for seed in range(4)]
    plain = calibrate(residual(), batches[0], batches)
    scheme = Scheme(refinements=("bias_correction", "adaround"))
    refined = calibrate(residual(), batches[0], batches, scheme)

    def scales(quantized):
        return [part.scale for part in quantized.decided.modules() if isinstance(part, Decided)]

    assert all(map(torch.equal, scales(plain), scales(refined)))
    stored = [b for _, b in refined.graph(fold=True).named_buffers() if b.dtype == torch.int8]
    assert len(stored) == 5


def test_an_unknown_refinement_is_refused():
    with pytest.raises(UnsupportedError, match="refinement"):
        Scheme(refinements=("magic",))
