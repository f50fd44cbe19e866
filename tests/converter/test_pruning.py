"""Pruning: every kind of coupled layer, every criterion, and the ratios that cannot be."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from skerry.converter.source.pytorch import load_weights
from skerry.converter.steps.base import TrainingSet, Workbench, parameters
from skerry.converter.steps.config import Distill, Prune, Sparsify
from skerry.converter.steps.depth import Block, least
from skerry.converter.steps.distill import distill
from skerry.converter.steps.prune import prune
from skerry.converter.steps.ratios import staying
from skerry.converter.steps.sensitivity import shares
from skerry.converter.steps.sparsify import sparsify, two_of_four
from skerry.converter.structure import Structure, save_model
from skerry.devices.errors import InputError


class Basic(nn.Module):
    """A residual block; where it grows, the shortcut is padded with channels of zeros, half of
    them in front, as in He et al. 2015, section 4.2."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inward, outward, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outward)
        self.conv2 = nn.Conv2d(outward, outward, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outward)
        self.grown = outward - inward

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        front = self.grown // 2
        return torch.relu(y + functional.pad(x, (0, 0, 0, 0, front, self.grown - front)))


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(Basic(8, 8), Basic(8, 16), Basic(16, 16), Basic(16, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class Mobile(nn.Module):
    """Depthwise, grouped and pointwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 24, 1)
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=3)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.deep(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.grouped(self.point(x))).mean((2, 3)))


def bench(source: nn.Module, shape: tuple[int, ...] = (1, 8, 8)) -> Workbench:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(64) % 4
    return Workbench(
        source=source,
        training=TrainingSet((torch.rand(64, *shape, generator=generator),), labels),
        seed=5,
        factory=lambda name, weights: source,
        advance=lambda detail: None,
    )


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind().eval()


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "bn_scale"])
@pytest.mark.parametrize("scope", ["layer", "global", "sensitivity"])
def test_each_criterion_and_scope_removes_about_its_share(criterion: str, scope: str) -> None:
    model = made(Padded)
    config = Prune(ratio=0.5, criterion=criterion, scope=scope, round_to=1, epochs=0)
    kept = prune(config, model, bench(model)).kept
    inner = [kept[f"blocks.{number}.conv1"] for number in range(4)]
    widths = [8, 16, 16, 16]
    mean = sum(k * w for k, w in zip(inner, widths, strict=True)) / sum(widths)
    assert 0.35 <= mean <= 0.65
    if scope == "layer":
        assert inner == [0.5] * 4
    with torch.no_grad():
        assert model(bench(model).training.inputs[0]).shape == (64, 4)


def test_channels_that_a_padded_shortcut_joins_stay() -> None:
    model = made(Padded)
    kept = prune(Prune(ratio=0.5, round_to=1, epochs=0), model, bench(model)).kept
    assert kept["stem"] == kept["blocks.2.conv2"] == kept["head"] == 1.0
    assert model.blocks[3].conv1.out_channels == 8


def test_depthwise_and_grouped_convolutions_stay_whole() -> None:
    model = made(Mobile)
    prune(Prune(ratio=0.5, round_to=1, epochs=0), model, bench(model))
    assert model.stem.out_channels == model.deep.groups == model.norm.num_features == 8
    assert model.grouped.groups == 3
    assert model.grouped.out_channels % 3 == model.grouped.in_channels % 3 == 0
    assert model.grouped.out_channels < 24
    with torch.no_grad():
        assert model(bench(model).training.inputs[0]).shape == (64, 4)


def test_named_ratios_go_before_the_common_one() -> None:
    model = made(Padded)
    config = Prune(
        ratio=0.25, ratios={"blocks.1": 0.75, "blocks.1.conv1": 0.5}, round_to=1, epochs=0
    )
    kept = prune(config, model, bench(model)).kept
    assert kept["blocks.1.conv1"] == 0.5
    assert kept["blocks.2.conv1"] == 0.75


def test_a_ratio_that_empties_a_layer_is_refused() -> None:
    model = made(Padded)
    with pytest.raises(InputError, match=r"leaves blocks\.0\.conv1 none of its 8 channels"):
        prune(Prune(ratios={"blocks.0.conv1": 0.99}, epochs=0), model, bench(model))
    with pytest.raises(InputError, match="ratios: the model has no layer 'bloks'"):
        prune(Prune(ratios={"bloks": 0.5}, epochs=0), model, bench(model))
    with pytest.raises(InputError, match="removed nothing"):
        prune(Prune(ratio=0.05, round_to=8, epochs=0), model, bench(model))


def test_stages_come_to_the_same_widths_as_one() -> None:
    once, again = made(Padded), made(Padded)
    one = prune(Prune(ratio=0.5, round_to=2, epochs=2), once, bench(once))
    config = Prune(ratio=0.5, round_to=2, epochs=3, stages=2)
    staged = prune(config, again, bench(again))
    assert one.kept == staged.kept and parameters(once) == parameters(again)
    assert len(staged.history.loss) == 3


def test_blocks_can_go_and_are_remembered(tmp_path: object) -> None:
    model = made(Padded)
    config = Distill(depth=0.5, width=0.5, epochs=1, batch=16)
    student, _ = distill(config, model, bench(made(Padded)))
    gone = Structure.of(student).skipped
    assert len(gone) == 1 and "blocks.1" not in gone  # of three that keep the shape
    path = tmp_path / "weights.safetensors"  # type: ignore[operator]
    path.write_bytes(save_model(student))
    again = made(Padded)
    load_weights(again, path, ((1, 8, 8),))
    assert save_model(again) == save_model(student)
    (images,) = bench(model).training.inputs
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images), student(images))


def test_a_depth_that_leaves_nothing_is_refused() -> None:
    found = [Block("a.0", 0.3), Block("a.1", 0.1), Block("b.0", 0.2), Block("b.1", 0.5)]
    assert least(found, 0.5) == ("a.1", "b.0")
    with pytest.raises(InputError, match="none of the 2 blocks in a would stay"):
        least(found, 0.1)
    with pytest.raises(InputError, match="no block"):
        prune(Prune(depth=0.5, epochs=0), made(Mobile), bench(made(Mobile)))


def test_widths_are_rounded_and_never_to_nothing() -> None:
    assert staying(16, 0.5, 4) == 8
    assert staying(16, 0.6, 4) == 8 and staying(16, 0.7, 4) == 4
    assert staying(16, 0.9, 4) == 4  # one multiple stays
    assert staying(16, 0.99, 4) == 0  # not one channel would
    assert staying(8, 0.5, 8 // 3) == 4  # of each of three parts


def test_layers_that_bear_more_lose_more() -> None:
    found = shares(
        {"soft": [0.0, 0.1, 0.2], "hard": [1.0, 2.0, 4.0]}, {"soft": 8, "hard": 8}, 0.4, 0.9
    )
    assert found["soft"] > 2 * found["hard"]
    assert abs(sum(found.values()) / 2 - 0.4) < 0.02


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_stay_zero_while_the_rest_recovers(pattern: str) -> None:
    model = made(Padded)
    before = parameters(model)
    config = Sparsify(pattern=pattern, ratio=0.5, epochs=2, stages=2, batch=16, keep=("stem",))
    sparse, history, zeros = sparsify(config, model, bench(model))
    assert parameters(sparse) == before and len(history.loss) == 2
    assert "stem.weight" not in zeros
    weight = sparse.blocks[2].conv1.weight
    share = sum(float((one == 0).sum()) for name, one in sparse.named_parameters() if name in zeros)
    total = sum(one.numel() for name, one in sparse.named_parameters() if name in zeros)
    assert abs(share / total - 0.5) < 0.02
    if pattern == "2:4":
        fours = (weight.movedim(1, -1).reshape(-1, 4) != 0).sum(1)
        assert bool((fours <= 2).all())
    assert set(Structure.of(sparse).sparse) == set(zeros)


def test_two_of_four_keeps_the_largest() -> None:
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 9.0, 9.5]])
    assert torch.equal(two_of_four(weight), torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 1.0]]))
