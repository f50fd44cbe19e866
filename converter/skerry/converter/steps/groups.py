"""Which channels can be removed together, and how much each matters.

Layers that share channels (residuals, concatenations, depthwise and grouped convolutions) form a
group: what goes from one goes from all. The graph of them is Torch-Pruning's (Fang et al.,
"DepGraph: Towards Any Structural Pruning", CVPR 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from skerry.converter.graph import as_tuple
from skerry.converter.steps.config import Criterion

__all__ = ["ChannelGroup", "Graph", "unprunable"]

_ROOTS = (nn.modules.conv._ConvNd, nn.Linear)
_IMPORTANCE: dict[Criterion, Callable[[], Any]] = {
    "magnitude": lambda: torch_pruning.importance.MagnitudeImportance(p=2),
    "taylor": lambda: torch_pruning.importance.TaylorImportance(),
    "bn_scale": lambda: torch_pruning.importance.BNScaleImportance(),
}


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of layers that go together.

    Attributes:
        layer: the one whose output channels are counted.
        parts: equal stretches of channels that must lose the same positions (groups of a
            convolution).
        importance: of each position within a part, float64 [channels / parts].
        layers: all layers that lose outputs with it, by name.
        padded: whether a tensor with these channels is padded. Along which axis is not known.
    """

    layer: str
    parts: int
    importance: Tensor
    layers: tuple[str, ...]
    padded: bool

    @property
    def channels(self) -> int:
        """How many there are in one part."""
        return len(self.importance)

    def step(self, round_to: int) -> int:
        """What counts of positions are multiples of, where those of channels are of `round_to`."""
        return max(1, round_to // self.parts)

    def outputs(self, positions: Sequence[int]) -> dict[str, list[int]]:
        """The numbers of these channels in each layer that loses them."""
        channels = [part * self.channels + one for part in range(self.parts) for one in positions]
        return dict.fromkeys(self.layers, channels)


class Graph:
    """The groups of a model.

    Args:
        model: its parameters are made to require gradients, through which it is traced.
        example: inputs as it takes them.
    """

    def __init__(self, model: nn.Module, example: Sequence[Tensor]) -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        self._names = {layer: name for name, layer in model.named_modules()}
        self._model = model
        self._graph = torch_pruning.DependencyGraph().build_dependency(
            model, example_inputs=list(example)
        )

    def groups(self, fixed: Sequence[str], criterion: Criterion) -> list[ChannelGroup]:
        """Every group that no layer of `fixed` loses outputs in, with its channels' importance."""
        measure = _IMPORTANCE[criterion]()
        ignored = [self._model.get_submodule(name) for name in fixed]
        found = []
        for group in self._all(ignored):
            importance = measure(group)
            if importance is None:  # no batch norm in it, where those are asked
                importance = _IMPORTANCE["magnitude"]()(group)
            parts = self._parts(group)
            mean = importance.detach().double().cpu().reshape(parts, -1).mean(0)
            layers = tuple(self._names[one] for one in self._losing(group))
            padded = any("Pad" in str(dependency.target.name) for dependency, _ in group)
            found.append(ChannelGroup(layers[0], parts, mean, layers, padded))
        return found

    def remove(self, group: ChannelGroup, positions: Sequence[int]) -> list[int]:
        """Take these positions out of every part. Returns the channels' numbers."""
        layer = self._model.get_submodule(group.layer)
        width = self._graph.get_out_channels(layer) // group.parts
        channels = [part * width + one for part in range(group.parts) for one in positions]
        prune = self._graph.get_pruner_of_module(layer).prune_out_channels
        self._graph.get_pruning_group(layer, prune, channels).prune(record_history=False)
        return channels

    @torch.no_grad()
    def silence(self, group: ChannelGroup, positions: Sequence[int]) -> None:
        """Make what `remove` would take out zero instead."""
        layer = self._model.get_submodule(group.layer)
        prune = self._graph.get_pruner_of_module(layer).prune_out_channels
        for dependency, channels in self._graph.get_pruning_group(layer, prune, list(positions)):
            out = self._graph.is_out_channel_pruning_fn(dependency.handler)
            for name in ("weight", "bias") if out else ():
                parameter = getattr(dependency.target.module, name, None)
                if isinstance(parameter, nn.Parameter):
                    parameter[channels] = 0

    def _all(self, ignored: list[nn.Module]) -> list[Any]:
        return list(
            self._graph.get_all_groups(
                ignored_layers=ignored,
                root_module_types=[torch_pruning.ops.TORCH_CONV, torch_pruning.ops.TORCH_LINEAR],
            )
        )

    def _losing(self, group: Any) -> list[nn.Module]:
        """Layers that lose outputs, the root first."""
        found: list[nn.Module] = []
        for dependency, _ in group:
            layer = dependency.target.module
            out = self._graph.is_out_channel_pruning_fn(dependency.handler)
            if out and isinstance(layer, _ROOTS) and layer not in found:
                found.append(layer)
        return found

    def _parts(self, group: Any) -> int:
        parts = 1
        for dependency, _ in group:
            layer = dependency.target.module
            if isinstance(layer, nn.Module) and layer in self._names:
                pruner = self._graph.get_pruner_of_module(layer)
                depthwise = getattr(layer, "groups", 1) == getattr(layer, "out_channels", 0)
                if pruner is None or depthwise:
                    continue
                out = self._graph.is_out_channel_pruning_fn(dependency.handler)
                count = pruner.get_out_channel_groups if out else pruner.get_in_channel_groups
                parts = max(parts, count(layer))
        return parts


def unprunable(model: nn.Module, example: Sequence[Tensor], keep: Sequence[str]) -> tuple[str, ...]:
    """Layers that cannot lose an output: the model would give another shape, no longer run, or
    read the wrong channels.

    The last channel is taken off each group in turn, on a copy, and the copy is run. Padding that
    adds channels shifts the numbers of others, which the graph does not follow: where there is
    padding, taking a channel out must be the same as making it zero.

    Args:
        keep: layers that are to stay anyway, and are not tried.
    """
    fixed = list(keep)
    while (bad := _first_bad(model, example, fixed)) is not None:
        fixed += bad
    return tuple(fixed)


@torch.no_grad()
def _first_bad(
    model: nn.Module, example: Sequence[Tensor], fixed: Sequence[str]
) -> tuple[str, ...] | None:
    trial, silent = (copy.deepcopy(model).eval() for _ in range(2))
    wanted = as_tuple(trial(*example))
    with torch.enable_grad():
        graph = Graph(trial, example)
        groups = graph.groups(fixed, "magnitude")
        other = Graph(silent, example) if any(group.padded for group in groups) else None
    # Those with padding first, while the two copies are alike but for the group itself.
    for group in sorted(groups, key=lambda group: not group.padded):
        if group.channels < 2:
            return group.layers
        try:
            graph.remove(group, [group.channels - 1])
            found = as_tuple(trial(*example))
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
            return group.layers
        if [one.shape for one in found] != [one.shape for one in wanted]:
            return group.layers
        if group.padded and other is not None:
            other.silence(group, [group.channels - 1])
            if not torch.allclose(found[0], as_tuple(silent(*example))[0], 1e-3, 1e-4):
                return group.layers
    return None
