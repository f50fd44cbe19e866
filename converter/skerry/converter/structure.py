"""What was taken out of a model, so that the same can be done to a fresh one.

A pruned model is its factory's module after a list of removals. The list is kept beside the
weights, and a later version begins from the pruned model without pruning again.

Channels take others with them along the graph; the cuts of an attention's heads are listed whole.
Neither touches what the other does, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import msgspec
import torch
import torch_pruning
from safetensors.torch import save
from torch import nn

from skerry.converter.attention import open_attention
from skerry.devices.errors import InputError

__all__ = [
    "STRUCTURE_KEY",
    "Removal",
    "Setting",
    "Structure",
    "apply_structure",
    "cut",
    "put",
    "save_model",
]

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


class Setting(msgspec.Struct, frozen=True):
    """A number that a module keeps of how many heads or channels it has.

    Attributes:
        module: its qualified name; empty for the model itself.
        attribute: where the number is.
        value: what it is now.
    """

    module: str
    attribute: str
    value: Annotated[int, msgspec.Meta(ge=1)]


class Structure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model is, beside what its factory makes.

    Attributes:
        removals: all channels that were removed, in order.
        skipped: blocks that hand on what they are given, by name.
        sparse: parameters whose zeros are meant to stay, by name.
        opened: attentions whose projections became layers of their own, by name.
        cuts: channels of heads that were removed, in order, nothing else with them.
        settings: numbers that changed with them, the last of each counting.
    """

    removals: tuple[Removal, ...] = ()
    skipped: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    cuts: tuple[Removal, ...] = ()
    settings: tuple[Setting, ...] = ()

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
    try:
        for name in structure.opened:
            open_attention(model, name)
    except InputError as error:
        raise _lacks(name, where) from error
    _remove(model, structure.removals, shapes, where)
    modules = dict(model.named_modules())
    for one in structure.cuts:
        _check(modules, one, where)
        cut(modules[one.layer], one.outputs, one.channels)
    for setting in structure.settings:
        had = getattr(modules.get(setting.module), setting.attribute, None)
        if type(had) is not int or had < setting.value:
            raise _lacks(setting.module, where)
        put(model, setting)
    for name in structure.skipped:
        if name not in modules:
            raise _lacks(name, where)
        model.set_submodule(name, nn.Identity())
    structure.remember(model)


def cut(layer: nn.Module, outputs: bool, channels: Collection[int]) -> None:
    """Take channels out of a linear layer or an ungrouped convolution, and of nothing else."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    axis, side = (0, "out") if outputs else (1, "in")
    gone = set(channels)
    stay = torch.tensor([one for one in range(weight.shape[axis]) if one not in gone])
    layer.weight = nn.Parameter(weight.detach().index_select(axis, stay))
    if outputs and isinstance(layer.bias, nn.Parameter):
        layer.bias = nn.Parameter(layer.bias.detach().index_select(0, stay))
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    setattr(layer, f"{side}_{kind}", len(stay))


def put(model: nn.Module, setting: Setting) -> None:
    """Let a module of `model` know its new number."""
    setattr(model.get_submodule(setting.module), setting.attribute, setting.value)


def _remove(
    model: nn.Module,
    removals: tuple[Removal, ...],
    shapes: tuple[tuple[int, ...], ...],
    where: Path,
) -> None:
    if not removals:
        return
    modules = dict(model.named_modules())
    for removal in removals:
        _check(modules, removal, where)
    examples = [torch.zeros(2, *shape) for shape in shapes]
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=examples)
    history = [(one.layer, one.outputs, list(one.channels)) for one in removals]
    graph.load_pruning_history(history)


def _check(modules: dict[str, nn.Module], removal: Removal, where: Path) -> None:
    """That the layer has these channels, and some besides."""
    layer = modules.get(removal.layer)
    names = ("out_channels", "out_features") if removal.outputs else ("in_channels", "in_features")
    width = max((getattr(layer, name, 0) for name in names), default=0)
    channels = set(removal.channels)
    if not channels or min(channels) < 0 or max(channels) >= width or len(channels) >= width:
        raise _lacks(removal.layer, where)


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
