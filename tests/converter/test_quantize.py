import numpy as np
import pytest
import torch
from torch import nn

from fakes.networks import pictures, residual
from skerry.converter.quantize import CALIBRATORS, Scheme, calibrate
from skerry.converter.quantize.capture import capture
from skerry.converter.quantize.fold import fold_linear
from skerry.converter.quantize.observers import ActivationCollector, Decided
from skerry.converter.quantize.patterns import Role, analyse
from skerry.converter.quantize.ranges import Seen, affine, wide
from skerry.converter.quantize.twin import decided_layer, decision_of
from skerry.devices.errors import InputError, UnsupportedError


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def batches():
    return [(pictures(32, seed),) for seed in range(4)]


def test_both_graphs_come_from_one_decision(batches):
    quantized = calibrate(residual(), batches[0], batches)
    folded, unfolded = quantized.graph(fold=True), quantized.graph(fold=False)
    assert torch.equal(folded(*batches[0]), unfolded(*batches[0]))
    assert torch.equal(quantized(*batches[0]), folded(*batches[0]))


def test_the_source_is_left_alone(batches):
    module = residual()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    quantized = calibrate(module, batches[0], batches)
    quantized.graph(fold=True)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_fake_quantization_stays_close(batches):
    module = residual()
    quantized = calibrate(module, batches[0], batches)
    held_out = pictures(200, seed=99)
    with torch.no_grad():
        exact, rounded = module(held_out), quantized(held_out)
    noise = (exact - rounded).pow(2).mean()
    assert 10 * torch.log10(exact.pow(2).mean() / noise) > 25


def test_roles_follow_the_rules(batches):
    placed = analyse(capture(residual(), batches[0]).graph)
    weighted = [p for p in placed if p.role is Role.WEIGHTED]
    assert len(weighted) == 5
    # The activation belongs to the convolution before it, and a batch norm folds into it.
    assert [p.output.target._opname for p in weighted] == [
        "relu",
        "hardtanh",
        "batch_norm",
        "relu",
        "linear",
    ]
    (addition,) = [p for p in placed if p.node.target is torch.ops.aten.add.Tensor]
    assert addition.output.target is torch.ops.aten.relu.default
    shared = {str(p.node.target) for p in placed if p.role is Role.SHARED}
    assert shared == {"aten.max_pool2d.default", "aten.flatten.using_ints"}


def test_pre_processing_stays_in_floating_point(batches):
    placed = analyse(capture(residual(), batches[0]).graph)
    assert placed[0].node.target is torch.ops.aten.conv2d.default


class _Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 3, padding=1)
        self.after = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.after(torch.cat([torch.relu(self.left(x)), self.right(x)], dim=1))


def test_what_is_joined_has_one_scale():
    torch.manual_seed(0)
    batch = (torch.randn(8, 1, 6, 6),)
    quantized = calibrate(_Branches().eval(), batch, [batch])
    nodes = {node.name: node for node in quantized.decided.graph.nodes}
    parts = dict(quantized.decided.named_modules(remove_duplicate=False))
    joined = nodes["cat"]
    around = [*joined.args[0], *joined.users]
    decisions = {id(parts[node.target]) for node in around}
    assert len(around) == 3
    assert len(decisions) == 1


def test_weights_are_symmetric_and_per_channel(batches):
    quantized = calibrate(residual(), batches[0], batches)
    weights = [p for p in quantized.decided.modules() if isinstance(p, Decided) and p.ch_axis == 0]
    assert [len(w.scale) for w in weights] == [8, 8, 8, 32, 10]
    assert all(bool((w.zero_point == 0).all()) for w in weights)
    assert {(w.quant_min, w.quant_max) for w in weights} == {(-127, 127)}


def test_reduced_range_uses_seven_bits(batches):
    scheme = Scheme(reduce_range=True, per_channel=False)
    folded = calibrate(residual(), batches[0], batches, scheme).graph(fold=True)
    stored = [value for name, value in folded.named_buffers() if value.dtype == torch.int8]
    assert stored
    assert all(int(value.abs().max()) == 63 for value in stored)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_calibration_does_not_depend_on_the_order_of_batches(calibrator, batches):
    if calibrator == "moving_average":
        pytest.skip("a moving average is about order")
    scheme = Scheme(calibrator=calibrator)
    one, other = ActivationCollector(scheme), ActivationCollector(scheme)
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(1000, generator=generator) * 2.0**step for step in range(-3, 4)]
    for part in parts:
        one(part)
    for part in reversed(parts):
        other(part)
    assert one.calculate_qparams() == other.calculate_qparams()


def test_a_histogram_counts_every_value():
    collector = ActivationCollector(Scheme())
    for reach in (0.0, 1e-3, 7.0, 7.5, 1e4):
        collector(torch.linspace(-reach, reach, 101))
    assert int(collector.seen().counts.sum()) == 5 * 101


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-3.0, 5.0), (2.0, 3.0), (-2.0, -1.0)])
def test_zero_is_exact_and_the_range_is_covered(low, high):
    chosen = affine(low, high)
    assert -128 <= chosen.zero_point <= 127
    reach = [(end - chosen.zero_point) * chosen.scale for end in (-128, 127)]
    assert reach[0] <= min(low, 0) + chosen.scale
    assert reach[1] >= max(high, 0) - chosen.scale


@pytest.mark.parametrize("reach", [0.0, 1e-30, 2.0**-60])
def test_a_range_of_nothing_is_taken_for_one(reach):
    assert affine(-reach, reach).scale == pytest.approx(1 / 255)
    seen = Seen(-reach, reach, -reach, reach, np.zeros(8192, np.int64), 1.0)
    assert wide(seen).scale == pytest.approx(1 / 32767)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("low", [1e-12, 1e-3])
def test_every_bias_fits_into_32_bits(per_channel, low):
    """Both a weak channel of weights and a weak input make steps too fine for a bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        model[0].weight[3] *= 1e-9
        model[0].bias[3] = 5.0
    x = low * torch.randn(64, 8)
    decided = calibrate(model, (x,), [(x,)], Scheme(per_channel=per_channel)).decided
    layers = [one for node in decided.graph.nodes if (one := decided_layer(decided, node))]
    assert len(layers) == 2
    for (layer, weight), part in zip(layers, (model[0], model[2]), strict=True):
        step = decision_of(decided, layer.x).scale * weight.scale
        assert float((part.bias.detach().abs() / step).max()) <= 2**30 * (1 + 1e-6)
        assert per_channel or len(weight.scale.unique()) == 1
    finest = model[2].weight.detach().abs().amax(1) / 127
    if per_channel:  # what fits is left as it is
        assert torch.equal(layers[1][1].scale, finest)


@pytest.mark.parametrize("calibrator", ["percentile", "mse", "entropy"])
def test_clipping_calibrators_shut_out_a_far_outlier(calibrator):
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(2_000_000, generator=generator)
    values[0] = 60.0
    collector = ActivationCollector(Scheme(calibrator=calibrator))
    collector(values)
    scale, _ = collector.calculate_qparams()
    widest = ActivationCollector(Scheme(calibrator="minmax"))
    widest(values)
    assert float(scale) < 0.5 * float(widest.calculate_qparams()[0])


def test_no_data_is_an_error(batches):
    with pytest.raises(InputError, match="no calibration data"):
        calibrate(residual(), batches[0], [])


def test_a_value_that_is_not_finite_is_an_error(batches):
    module = residual()
    module.stem.weight.data[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        calibrate(module, batches[0], batches)


def test_nothing_to_quantize_is_an_error():
    with pytest.raises(UnsupportedError, match="no convolution or linear"):
        calibrate(nn.Sigmoid().eval(), (torch.zeros(2, 3),), [(torch.zeros(2, 3),)])


def test_an_unknown_calibrator_is_refused():
    with pytest.raises(UnsupportedError, match="calibrator"):
        Scheme(calibrator="guess")  # type: ignore[arg-type]


class _Keras(nn.Module):
    """A batch norm as other frameworks leave it: times and plus a constant; a matrix product."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.gain = nn.Parameter(torch.rand(1, 4, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(4))
        self.matrix = nn.Parameter(torch.randn(4, 3))
        self.offset = nn.Parameter(torch.randn(3))

    def forward(self, x):
        x = torch.relu(self.conv(x) * self.gain + self.shift.reshape(1, 4, 1, 1))
        return (x.mean((2, 3)) @ self.matrix - self.offset) / 2


def test_constants_behind_a_layer_are_folded_into_it():
    torch.manual_seed(0)
    module, x = _Keras().eval(), torch.randn(5, 1, 6, 6)
    graph_module = capture(module, (x,))
    fold_linear(graph_module)
    kinds = [n.target._opname for n in graph_module.graph.nodes if n.op == "call_function"]
    assert kinds == ["conv2d", "relu", "mean", "linear"]
    with torch.no_grad():
        assert torch.allclose(graph_module(x), module(x), atol=1e-5)


def test_casts_that_change_nothing_are_left_out():
    class Cast(nn.Module):
        def forward(self, x):
            return torch.relu(x.to(torch.float32)).to(torch.float32)

    targets = [node.target for node in capture(Cast(), (torch.rand(2, 3),)).graph.nodes]
    assert torch.ops.aten.to.dtype not in targets
    assert torch.ops.aten.relu.default in targets


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        (nn.AdaptiveAvgPool2d(1), True),
        (nn.AvgPool2d(6), True),
        (nn.AvgPool2d((6, 6), stride=1), True),
        (nn.AvgPool2d(6, divisor_override=7), False),
        (nn.AvgPool2d(6, stride=1, padding=1), False),
        (nn.AvgPool2d(3), False),
    ],
)
def test_an_average_of_everything_is_a_mean_with_its_own_scale(pool, found):
    x = torch.randn(3, 2, 6, 6)
    graph_module = capture(pool, (x,))
    targets = [node.target for node in graph_module.graph.nodes]
    assert (torch.ops.aten.mean.dim in targets) is found
    assert torch.allclose(graph_module(x), pool(x), atol=1e-6)
