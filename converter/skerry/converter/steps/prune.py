"""Structured pruning that really shrinks: whole channels and blocks go, then the rest recovers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Prune
from skerry.converter.steps.healing import healing
from skerry.converter.steps.hints import layer_named
from skerry.converter.steps.removing import Removing, remove_blocks, widths
from skerry.converter.steps.training import History

__all__ = ["Pruned", "prune"]


@dataclass(frozen=True)
class Pruned:
    """What pruning did.

    Attributes:
        history: losses of the recovery.
        kept: the share of channels that each layer kept.
        whole: attentions that could not lose heads, and why, by the layers before them.
    """

    history: History
    kept: dict[str, float]
    whole: dict[str, str]


def prune(config: Prune, model: nn.Module, bench: Workbench) -> Pruned:
    """Remove channels, heads of attentions and blocks from `model` in place, then train it towards
    its teacher.

    Raises:
        InputError: a name is no layer's, a ratio empties a layer, or nothing could be removed.
    """
    for key, names in (("keep", config.keep), ("ratios", config.ratios)):
        for name in names:
            layer_named(model, name, key)
    heal = healing(config, model, bench)
    before = widths(model)
    if config.depth < 1:
        remove_blocks(model, config.depth, bench)
    removing = Removing(config, model, bench) if config.ratio > 0 or config.ratios else None
    if removing is not None:
        before |= widths(model)
    history = History()
    for stage in range(config.stages):
        if removing is not None:
            removing.to((stage + 1) / config.stages)
        history += heal(model, stage)
    after = widths(model)
    kept = {name: after[name] / width for name, width in before.items() if name in after}
    return Pruned(history, kept, removing.whole if removing is not None else {})
