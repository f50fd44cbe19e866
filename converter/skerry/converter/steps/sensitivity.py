"""How much pruning each group bears: it alone loses channels, and the loss is looked at.

Source: Li et al., "Pruning Filters for Efficient ConvNets", 2017, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from skerry.converter.graph import as_tuple
from skerry.converter.steps.config import Prune
from skerry.converter.steps.groups import ChannelGroup

__all__ = ["bearable", "shares"]

_TRIED = (0.25, 0.5, 0.75)


@torch.no_grad()
def bearable(
    config: Prune,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    inputs: tuple[torch.Tensor, ...],
) -> dict[str, float]:
    """The share of channels that each group is to lose, `config.ratio` on the whole.

    Channels are silenced rather than removed: the outputs are the same, and the model stays whole.
    """
    model.eval()
    exact = as_tuple(model(*inputs))[0]
    harm: dict[str, list[float]] = {}
    for group in groups:
        order = torch.argsort(group.importance, stable=True)
        harm[group.layer] = []
        for share in _TRIED:
            silent = order[: round(group.channels * share)].tolist()
            found = _without(model, group, silent, inputs)
            harm[group.layer].append(float((found - exact).pow(2).mean()))
    sizes = {group.layer: group.channels * group.parts for group in groups}
    return shares(harm, sizes, config.ratio, config.most)


def _without(
    model: nn.Module, group: ChannelGroup, silent: list[int], inputs: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    kept = []
    for name, channels in group.outputs(silent).items():
        layer = model.get_submodule(name)
        for parameter in (layer.weight, layer.bias):
            if isinstance(parameter, nn.Parameter) and len(parameter) > max(channels, default=-1):
                kept.append((parameter, channels, parameter[channels].clone()))
                parameter[channels] = 0
    found = as_tuple(model(*inputs))[0]
    for parameter, channels, values in kept:
        parameter[channels] = values
    return found


def shares(
    harm: dict[str, list[float]], sizes: dict[str, int], ratio: float, most: float
) -> dict[str, float]:
    """Shares by layer whose mean, weighted by size, is `ratio`: the same harm everywhere.

    Args:
        harm: of each layer at the shares tried, rising or not.
        sizes: channels of each layer.
        most: the largest share of one layer.
    """
    worst = max((max(values) for values in harm.values()), default=0.0)
    low, high = 0.0, max(worst, 1e-12)
    total = sum(sizes.values())
    found: dict[str, float] = {}
    for _ in range(60):
        level = (low + high) / 2
        found = {name: _share_at(values, level, most) for name, values in harm.items()}
        mean = sum(found[name] * sizes[name] for name in found) / max(1, total)
        low, high = (level, high) if mean < ratio else (low, level)
    return found


def _share_at(harm: list[float], level: float, most: float) -> float:
    """The largest share whose harm stays at `level`, between those tried along straight lines."""
    share, before = 0.0, 0.0
    for tried, value in zip(_TRIED, harm, strict=True):
        value = max(value, before)
        if value > level:
            part = (level - before) / max(value - before, 1e-30)
            return min(most, share + part * (tried - share))
        share, before = tried, value
    return min(most, share + (1 - share) * 0.5)
