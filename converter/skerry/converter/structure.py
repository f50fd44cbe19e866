"""What was taken out of a model, so that the same can be done to a fresh one.

A pruned model is its factory's module after a list of removals. The list is kept beside the
weights, and a later version begins from the pruned model without pruning again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
import torch_pruning
from safetensors.torch import save
from torch import nn

from skerry.devices.errors import InputError

__all__ = ["STRUCTURE_KEY", "Removal", "Structure", "apply_structure", "save_model"]

STRUCTURE_KEY = "skerry.structure.v1"
_ATTRIBUTE = "_skerry_structure"


class Removal(msgspec.Struct, frozen=True):
    """One pruned layer.

    Attributes:
        layer: its qualified name.
        outputs: whether its output channels were removed, or its inputs.
        channels: their numbers at that moment.
    """

    layer: str
    outputs: bool
    channels: tuple[int, ...]


class Structure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model is, beside what its factory makes.

    Attributes:
        removals: all channels that were removed, in order.
        skipped: blocks that hand on what they are given, by name.
        sparse: parameters whose zeros are meant to stay, by name.
    """

    removals: tuple[Removal, ...] = ()
    skipped: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()

    def encode(self) -> str:
        """The structure as JSON."""
        return msgspec.json.encode(self, order="deterministic").decode()

    @classmethod
    def decode(cls, text: str) -> Structure:
        """Read `encode`'s text.

        Raises:
            InputError: it is malformed.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise InputError(f"not a structure: {error}") from error

    @classmethod
    def of(cls, model: nn.Module) -> Structure:
        """What was removed from `model` so far."""
        found = getattr(model, _ATTRIBUTE, None)
        return found if isinstance(found, cls) else cls()

    def remember(self, model: nn.Module) -> None:
        """Note on `model` that this was removed from it."""
        setattr(model, _ATTRIBUTE, self)


def apply_structure(
    model: nn.Module, structure: Structure, shapes: tuple[tuple[int, ...], ...], where: Path
) -> None:
    """Remove from a fresh `model` what `structure` says.

    Raises:
        InputError: the model has no such layer or channel.
    """
    _remove(model, structure, shapes, where)
    for name in structure.skipped:
        if name not in dict(model.named_modules()):
            raise _lacks(name, where)
        model.set_submodule(name, nn.Identity())
    structure.remember(model)


def _remove(
    model: nn.Module, structure: Structure, shapes: tuple[tuple[int, ...], ...], where: Path
) -> None:
    if not structure.removals:
        return
    modules = dict(model.named_modules())
    for removal in structure.removals:
        layer = modules.get(removal.layer)
        width = getattr(layer, "out_channels", getattr(layer, "out_features", 0))
        if layer is None or not removal.channels or max(removal.channels) >= width:
            raise _lacks(removal.layer, where)
    examples = [torch.zeros(2, *shape) for shape in shapes]
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=examples)
    history = [(one.layer, one.outputs, list(one.channels)) for one in structure.removals]
    graph.load_pruning_history(history)


def _lacks(layer: str, where: Path) -> InputError:
    return InputError(
        f"the weights were pruned in {layer}, which this model lacks",
        where=where,
        remedy="give the factory that the pruned model was made of",
    )


def save_model(model: nn.Module) -> bytes:
    """The weights as safetensors, with the pruned structure in the header; the same bytes for the
    same model."""
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    structure = Structure.of(model)
    metadata = {STRUCTURE_KEY: structure.encode()} if structure != Structure() else None
    return save(state, metadata)
