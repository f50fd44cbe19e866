"""How many channels each group loses, and which. Pure functions.

Rounding never empties a layer: at least `round_to` channels stay, or the layer is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from skerry.converter.steps.config import Prune
from skerry.converter.steps.groups import ChannelGroup
from skerry.devices.errors import InputError

__all__ = ["channels_to_go", "staying"]


def channels_to_go(
    groups: Sequence[ChannelGroup],
    config: Prune,
    widths: Mapping[str, int],
    done: float,
    round_to: int,
    found: Mapping[str, float],
) -> dict[str, list[int]]:
    """The positions that each group loses now, by its layer.

    Args:
        widths: channels of each layer before the first stage.
        done: the share of the whole pruning that is to be reached.
        found: shares of single layers that were found; the configuration's own come first.

    Raises:
        InputError: a ratio leaves a layer without a channel.
    """
    ratios = _global(groups, config, widths, done) if config.scope == "global" else {}
    plan = {}
    for group in groups:
        width = widths[group.layer] // group.parts
        named = _named(config.ratios, group.layers)
        if named is not None:
            goal = named * done
        elif group.layer in ratios:
            goal = ratios[group.layer]
        else:
            goal = min(found.get(group.layer, config.ratio) * done, config.most)
        step = group.step(round_to)
        stay = staying(width, goal, step if width >= step else 1)
        if stay < 1:
            raise InputError(
                f"a ratio of {goal:.2f} leaves {group.layer} none of its {width} channels",
                remedy="lower the ratio, or name the layer in keep",
            )
        gone = max(0, group.channels - stay)
        order = torch.argsort(group.importance, stable=True)
        plan[group.layer] = sorted(int(one) for one in order[:gone])
    return plan


def staying(width: int, ratio: float, step: int) -> int:
    """How many of `width` positions stay: the multiple of `step` nearest to what the ratio says, at
    least one multiple where any is to stay."""
    exact = width * (1 - ratio)
    nearest = step * int(exact / step + 0.5)
    if nearest == 0 and int(exact + 0.5) >= 1:
        nearest = step
    return min(width, nearest)


def _named(ratios: Mapping[str, float], layers: Sequence[str]) -> float | None:
    """The share that the longest name or prefix of a name says, or None."""
    found = [
        (len(name), share)
        for name, share in ratios.items()
        for layer in layers
        if layer == name or layer.startswith(f"{name}.")
    ]
    return max(found)[1] if found else None


def _global(
    groups: Sequence[ChannelGroup], config: Prune, widths: Mapping[str, int], done: float
) -> dict[str, float]:
    """The share that each group loses when all channels are ranked together.

    Importances are compared as shares of their group's mean, so that a group with larger weights
    does not win by that alone.
    """
    free = [one for one in groups if _named(config.ratios, one.layers) is None]
    if not free:
        return {}
    ranked = [one.importance / one.importance.mean().clamp_min(1e-12) for one in free]
    total = sum(widths[one.layer] for one in free)
    here = sum(one.channels * one.parts for one in free)
    gone = round(total * config.ratio * done) - (total - here)
    if gone <= 0:
        return {one.layer: 1 - one.channels * one.parts / widths[one.layer] for one in free}
    every = list(zip(ranked, free, strict=True))
    values = torch.cat([one.repeat_interleave(group.parts) for one, group in every])
    owners = torch.cat(
        [torch.full((group.channels * group.parts,), i) for i, (_, group) in enumerate(every)]
    )
    lost = torch.bincount(owners[torch.argsort(values, stable=True)[:gone]], minlength=len(free))
    shares = {}
    for one, count in zip(free, lost.tolist(), strict=True):
        stay = one.channels * one.parts - count
        shares[one.layer] = min(1 - stay / widths[one.layer], config.most)
    return shares
