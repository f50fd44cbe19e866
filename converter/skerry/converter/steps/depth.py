"""Fewer blocks: those that hand on a tensor of the shape they were given can be left out.

A block is a child of an `nn.Sequential` or `nn.ModuleList` with parameters of its own. Residual
blocks bear it best (Veit et al., "Residual Networks Behave Like Ensembles", 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from skerry.converter.structure import Structure
from skerry.devices.errors import InputError

__all__ = ["Block", "blocks", "least", "skip"]


@dataclass(frozen=True)
class Block:
    """A block that can be left out.

    Attributes:
        name: of the module.
        change: the size of what it adds, relative to what it is given.
    """

    name: str
    change: float

    @property
    def holder(self) -> str:
        """The sequence that it is a child of."""
        return self.name.rpartition(".")[0]


@torch.no_grad()
def blocks(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Block, ...]:
    """All blocks that can be left out, in order, and how much each changes what it is given.

    Args:
        inputs: a batch, as the model takes it.
    """
    changes: dict[str, float] = {}
    watched = []
    for name, block in _candidates(model):

        def look(_: nn.Module, given: Any, result: Any, name: str = name) -> None:
            x = given[0] if given else None
            if isinstance(x, Tensor) and isinstance(result, Tensor) and x.shape == result.shape:
                size = x.float().pow(2).mean().clamp_min(1e-12)
                changes[name] = float((result.float() - x.float()).pow(2).mean() / size)

        watched.append(block.register_forward_hook(look))
    model.eval()
    model(*inputs)
    for one in watched:
        one.remove()
    return tuple(Block(name, change) for name, change in changes.items())


def least(found: Sequence[Block], depth: float) -> tuple[str, ...]:
    """The names of those that go, so that the share `depth` of every sequence stays.

    Raises:
        InputError: there are no blocks, or a sequence would keep none.
    """
    if not found:
        raise InputError(
            "depth: the model has no block that can be left out",
            remedy="leave depth out; blocks are children of an nn.Sequential that keep the shape",
        )
    gone: set[str] = set()
    for holder in dict.fromkeys(block.holder for block in found):
        inside = [block for block in found if block.holder == holder]
        stay = int(len(inside) * depth + 0.5)
        if stay == 0:
            raise InputError(
                f"depth: none of the {len(inside)} blocks in {holder or 'the model'} would stay",
                remedy="raise the step's depth",
            )
        order = sorted(inside, key=lambda block: block.change)
        gone |= {block.name for block in order[: len(inside) - stay]}
    return tuple(block.name for block in found if block.name in gone)


def skip(model: nn.Module, names: Sequence[str]) -> None:
    """Put nothing in the place of these blocks, and remember it."""
    for name in names:
        model.set_submodule(name, nn.Identity())
    before = Structure.of(model)
    replace(before, skipped=(*before.skipped, *names)).remember(model)


def _candidates(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found = []
    for name, holder in model.named_modules():
        if isinstance(holder, nn.Sequential | nn.ModuleList):
            for key, child in holder.named_children():
                path = f"{name}.{key}" if name else key
                if any(True for _ in child.children()) and any(True for _ in child.parameters()):
                    found.append((path, child))
    return found
