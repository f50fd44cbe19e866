"""Whole heads of attentions: found, taken out, remembered, and smaller in every file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from skerry.converter.attention import OpenAttention
from skerry.converter.source.pytorch import load_weights
from skerry.converter.steps.base import TrainingSet, Workbench
from skerry.converter.steps.config import Prune
from skerry.converter.steps.heads import find_heads, settled
from skerry.converter.steps.prune import prune
from skerry.converter.structure import Structure, save_model
from skerry.devices.errors import InputError

WIDTH, HEADS, LENGTH = 16, 4, 5


class Apart(nn.Module):
    """Separate projections; the number of heads and the width of all are numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.n_ways, self.size, self.all = HEADS, 6, HEADS * 6
        self.ask, self.say, self.tell = (nn.Linear(WIDTH, self.all) for _ in range(3))
        self.join = nn.Linear(self.all, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], LENGTH, self.n_ways, self.size)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.ask, self.say, self.tell))
        seen = functional.scaled_dot_product_attention(q, k, v)
        return self.join(seen.transpose(1, 2).reshape(x.shape[0], LENGTH, self.all))


class Packed(nn.Module):
    """One projection, the three interleaved by axes, and a softmax written out."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = packed.unbind(0)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Chunked(nn.Module):
    """One projection, one third after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            one.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for one in self.project(x).chunk(3, -1)
        ]
        return self.join(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """Two queries for every key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, kv = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.kv))
        k, v = kv.chunk(2, 1)
        seen = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(seen.transpose(1, 2).flatten(2))


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x)[0]


class Fixed(nn.Module):
    """The number of heads stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).reshape(-1, LENGTH, 4, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        seen = functional.scaled_dot_product_attention(q, k, v)
        return self.o(seen.transpose(1, 2).reshape(-1, LENGTH, 16))


class Transformer(nn.Module):
    """float32 [n, 5, 4] → [n, 4]."""

    def __init__(self, kind: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.attention = kind()
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(x)
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x.mean(1))


def made(kind: Callable[[], nn.Module]) -> Transformer:
    torch.manual_seed(1)
    return Transformer(kind).eval()


def bench(source: nn.Module) -> Workbench:
    torch.set_num_threads(1)
    rows = torch.randn(64, LENGTH, 4, generator=torch.Generator().manual_seed(3))
    return Workbench(
        source=source,
        training=TrainingSet((rows,), torch.arange(64) % 4),
        seed=5,
        factory=lambda name, weights: source,
        advance=lambda detail: None,
    )


KINDS = {
    Apart: ("attention.ask", 4, 6),
    Packed: ("attention.qkv", 4, 12),
    Chunked: ("attention.project", 4, 12),
    Grouped: ("attention.kv", 2, 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_channels_of_each_head_are_found(kind: Callable[[], nn.Module]) -> None:
    model = made(kind)
    (group,), whole = find_heads(model, bench(model).training.example(), (), "magnitude")
    assert not whole
    layer, heads, _ = KINDS[kind]
    assert group.channels == heads and layer in group.layers
    for (name, outputs), channels in group.channels_of.items():
        weight = model.get_submodule(name).weight
        assert sorted(sum(channels, ())) == list(range(weight.shape[0 if outputs else 1])), name


def test_heads_of_a_packed_projection_are_where_the_code_puts_them() -> None:
    model = made(Packed)
    (group,), _ = find_heads(model, bench(model).training.example(), (), "magnitude")
    first = [4, 5, 6, 7]  # of the second head, among the queries
    assert group.outputs([1])["attention.qkv"] == [
        *first,
        *(16 + one for one in first),
        *(32 + one for one in first),
    ]


@pytest.mark.parametrize("scope", ["layer", "global", "sensitivity"])
@pytest.mark.parametrize("kind", [*KINDS, Torch])
def test_half_the_heads_go(kind: Callable[[], nn.Module], scope: str, tmp_path: Path) -> None:
    model = made(kind)
    place = bench(model)
    config = Prune(
        ratio=0.5, scope=scope, round_to=1, epochs=0, stages=2, ratios={"attention": 0.5}
    )
    pruned = prune(config, model, place)
    assert not pruned.whole
    shares = {share for name, share in pruned.kept.items() if name.startswith("attention.")}
    assert 0.5 in shares
    # The residual stream and the rest shrink as well; the model runs, and a fresh one is alike.
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save_model(model))
    again = made(kind)
    load_weights(again, path, ((LENGTH, 4),))
    (rows,) = place.training.inputs
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(rows), model(rows))
    assert Structure.of(again) == Structure.of(model)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "bn_scale"])
def test_what_does_nothing_goes_first(criterion: str) -> None:
    """A head whose weights are next to nothing, and is taken out, was not missed."""
    model = made(Apart)
    place = bench(model)
    with torch.no_grad():
        for layer in (model.attention.ask, model.attention.say, model.attention.tell):
            layer.weight[6:12] *= 1e-5
            layer.bias[6:12] *= 1e-5
        wanted = model(*place.training.inputs)
    keep = ("embed", "up", "down", "attention.join", "head")
    config = Prune(ratio=0.25, criterion=criterion, round_to=1, epochs=0, keep=keep)
    prune(config, model, place)
    (group,), _ = find_heads(model, place.training.example(), (), "magnitude")
    assert group.channels == 3
    with torch.no_grad():
        torch.testing.assert_close(model(*place.training.inputs), wanted, atol=1e-4, rtol=1e-3)


def test_an_opened_attention_is_the_same_function() -> None:
    torch.manual_seed(2)
    for first in (True, False):
        whole = nn.MultiheadAttention(WIDTH, HEADS, batch_first=first, kdim=8, vdim=12).eval()
        opened = OpenAttention(whole)
        query, key, value = (torch.randn(3, 3, width) for width in (WIDTH, 8, 12))
        padding = torch.tensor([[False, False, True]] * 3)
        mask = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
        for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
            given = {"key_padding_mask": padding, "attn_mask": mask, **options}
            wanted, found = whole(query, key, value, **given), opened(query, key, value, **given)
            torch.testing.assert_close(found, wanted)


def test_torchs_own_encoder_loses_heads() -> None:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
    model = nn.Sequential(
        nn.Linear(4, WIDTH), nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(80, 4)
    ).eval()
    pruned = prune(Prune(ratio=0.5, round_to=1, epochs=1), model, bench(model))
    for number in range(2):
        assert pruned.kept[f"1.layers.{number}.self_attn.query"] == 0.5
        assert model[1].layers[number].self_attn.num_heads == 2


def test_an_attention_that_cannot_lose_heads_stays_whole_and_is_told() -> None:
    model = made(Fixed)
    pruned = prune(Prune(ratio=0.5, round_to=1, epochs=0), model, bench(model))
    layers = "attention.q, attention.k, attention.v"
    assert pruned.whole == {layers: "the model does not run with fewer heads"}
    assert pruned.kept["attention.q"] == 1.0 and pruned.kept["up"] == 0.5


def test_bias_rows_of_an_attention_keep_it_as_it_is() -> None:
    model = made(Torch)
    model.attention.attend = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=True)
    pruned = prune(Prune(ratio=0.5, round_to=1, epochs=0), model.eval(), bench(model))
    assert "bias_k" in pruned.whole["attention.attend"]


def test_heads_that_are_kept_stay() -> None:
    for kind in (Apart, Torch):
        model = made(kind)
        pruned = prune(
            Prune(ratio=0.5, round_to=1, epochs=0, keep=("attention",)), model, bench(model)
        )
        inner = {
            n: s for n, s in pruned.kept.items() if n.startswith("attention.") and "o" not in n
        }
        assert set(inner.values()) <= {1.0}


def test_rounding_counts_channels_not_heads() -> None:
    model = made(Apart)
    pruned = prune(Prune(ratio=0.3, round_to=12, epochs=0), model, bench(model))
    assert pruned.kept["attention.ask"] == 0.5  # 12 channels are two heads


def test_a_ratio_that_takes_every_head_is_refused() -> None:
    model = made(Apart)
    with pytest.raises(InputError, match=r"leaves attention\.ask none of its 4"):
        prune(Prune(ratios={"attention": 0.95}, epochs=0), model, bench(model))


def test_damaged_records_of_heads_are_refused(tmp_path: Path) -> None:
    model = made(Apart)
    prune(Prune(ratio=0.5, round_to=1, epochs=0), model, bench(model))
    whole = Structure.of(model)
    assert whole.settings and whole.cuts
    path = tmp_path / "weights.safetensors"
    for damaged in (
        {"settings": [{"module": "attention", "attribute": "n_ways", "value": 10**9}]},
        {"settings": [{"module": "attention", "attribute": "forward", "value": 1}]},
        {"cuts": [{"layer": "attention.ask", "outputs": True, "channels": [-1]}]},
        {"cuts": [{"layer": "attention.ask", "outputs": True, "channels": list(range(24))}]},
        {"cuts": [{"layer": "attention", "outputs": True, "channels": [0]}]},
        {"opened": ["attention"]},
    ):
        Structure.decode(json.dumps(damaged)).remember(model)
        path.write_bytes(save_model(model))
        with pytest.raises(InputError, match="which this model lacks"):
            load_weights(made(Apart), path, ((LENGTH, 4),))


def test_settling_leaves_the_model_as_it_was() -> None:
    model = made(Apart)
    example = bench(model).training.example()
    before = model(*example)
    (group,), _ = find_heads(model, example, (), "magnitude")
    numbers = settled(model, group, example)
    assert numbers is not None
    assert [(one.attribute, one.value) for one in numbers] == [("all", 24), ("n_ways", 4)]
    assert torch.equal(model(*example), before)
