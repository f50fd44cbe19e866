"""Single weights set to zero: unstructured, or two of every four."""

from __future__ import annotations

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Sparsify
from skerry.converter.steps.healing import healing
from skerry.converter.steps.hints import layer_named
from skerry.converter.steps.training import History
from skerry.converter.structure import Structure

__all__ = ["sparsify", "two_of_four"]


def sparsify(
    config: Sparsify, model: nn.Module, bench: Workbench
) -> tuple[nn.Module, History, dict[str, float]]:
    """Zero the smallest weights of `model` in place, then train the rest.

    Returns:
        The model, its losses, and the share of zeros in each layer's weight.

    Raises:
        InputError: `keep` names no layer.
    """
    for name in config.keep:
        layer_named(model, name, "keep")
    heal = healing(config, model, bench)
    weights = _weights(model, config.keep)
    was = Structure.of(model)
    sparse = tuple(dict.fromkeys((*was.sparse, *weights)))
    replace(was, sparse=sparse).remember(model)
    history = History()
    for stage in range(config.stages):
        _zero(config, weights, (stage + 1) / config.stages)
        history += heal(model, stage)
    zeros = {name: float((one == 0).float().mean()) for name, one in weights.items()}
    return model, history, zeros


def _weights(model: nn.Module, keep: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers, by name."""
    return {
        f"{name}.weight": layer.weight
        for name, layer in model.named_modules()
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) and name not in keep
    }


@torch.no_grad()
def _zero(config: Sparsify, weights: dict[str, Tensor], done: float) -> None:
    if config.pattern == "2:4":
        for weight in weights.values():
            weight.mul_(two_of_four(weight, 1 if done < 1 else 2))
        return
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    count = int(len(sizes) * config.ratio * done)
    if count == 0:
        return
    limit = sizes.kthvalue(count).values
    for weight in weights.values():
        weight.mul_(weight.abs() > limit)


def two_of_four(weight: Tensor, gone: int = 2) -> Tensor:
    """A mask that keeps the largest of every four neighbours along a layer's inputs.

    Args:
        weight: [outputs, inputs, …]; neighbours are inputs at the same place of the kernel. What
            does not fill a four is kept.
        gone: how many of four go.

    Returns:
        Ones and zeros of its shape.
    """
    last = weight.movedim(1, -1)
    mask = torch.ones_like(last)
    whole = last.shape[-1] // 4 * 4
    fours = last[..., :whole].abs().reshape(*last.shape[:-1], -1, 4)
    smallest = fours.argsort(dim=-1, stable=True)[..., :gone]
    mask[..., :whole] = torch.ones_like(fours).scatter(-1, smallest, 0).flatten(-2)
    return mask.movedim(-1, 1)
