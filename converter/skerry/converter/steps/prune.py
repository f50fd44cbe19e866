"""Structured pruning that really shrinks: whole channels go, through every layer that shares them.

Which layers share channels is Torch-Pruning's dependency graph (Fang et al., "DepGraph: Towards Any
Structural Pruning", CVPR 2023); which channels matter least is the L2 norm over each group.
"""

from __future__ import annotations

import copy

import torch
import torch_pruning
from torch import nn

from skerry.converter.graph import as_tuple
from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Prune
from skerry.converter.steps.training import distillation_loss, fit, soft_targets
from skerry.converter.structure import Removal, Structure
from skerry.devices.errors import InputError

__all__ = ["prune"]


def prune(config: Prune, model: nn.Module, bench: Workbench) -> tuple[nn.Module, tuple[float, ...]]:
    """Remove channels from `model` in place, then train it towards what it was.

    Returns:
        The pruned model and its loss by epoch of recovery.

    Raises:
        InputError: `keep` names no layer, or no channel could be removed.
    """
    logits = soft_targets(model, bench.training)
    removed = _remove_channels(config, model, bench)
    before = Structure.of(model)
    Structure((*before.removals, *removed)).remember(model)
    loss = distillation_loss(logits, bench.training.labels, config.temperature, config.hard_share)
    return model, fit(model, config, bench, loss)


def _remove_channels(config: Prune, model: nn.Module, bench: Workbench) -> list[Removal]:
    examples = [one[:2] for one in bench.training.inputs]
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the dependency graph is traced through gradients
    pruner = torch_pruning.pruner.BasePruner(
        model,
        examples,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=config.ratio,
        round_to=config.round_to,
        ignored_layers=[*_kept(config, model), *_giving(model, examples)],
    )
    pruner.step()
    history = pruner.pruning_history()
    if not history:
        raise InputError(
            "pruning removed nothing", remedy="raise the step's ratio, or lower round_to"
        )
    return [
        Removal(layer, bool(outputs), tuple(int(channel) for channel in channels))
        for layer, outputs, channels in history
    ]


def _kept(config: Prune, model: nn.Module) -> list[nn.Module]:
    modules = dict(model.named_modules())
    for name in config.keep:
        if name not in modules:
            near = ", ".join(name for name, one in modules.items() if not list(one.children()))
            raise InputError(f"keep: the model has no layer {name!r}", remedy=f"it has: {near}")
    return [modules[name] for name in config.keep]


def _giving(model: nn.Module, examples: list[torch.Tensor]) -> list[nn.Module]:
    """The layers whose channels are the model's outputs: losing one changes what comes out."""
    shapes = _output_shapes(model, examples)
    lengths = {length for shape in shapes for length in shape[1:]}
    giving = []
    for name, layer in model.named_modules():
        width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        if width in lengths and _changes_output(model, name, examples, shapes):
            giving.append(layer)
    return giving


def _output_shapes(model: nn.Module, examples: list[torch.Tensor]) -> list[torch.Size]:
    with torch.no_grad():
        return [one.shape for one in as_tuple(model(*examples))]


def _changes_output(
    model: nn.Module, name: str, examples: list[torch.Tensor], shapes: list[torch.Size]
) -> bool:
    trial = copy.deepcopy(model)
    graph = torch_pruning.DependencyGraph().build_dependency(trial, example_inputs=examples)
    layer = trial.get_submodule(name)
    pruner = graph.get_pruner_of_module(layer)
    graph.get_pruning_group(layer, pruner.prune_out_channels, [0]).prune()
    return _output_shapes(trial, examples) != shapes
