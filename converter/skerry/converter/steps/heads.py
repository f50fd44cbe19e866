"""Heads of attentions that can go, and how much each matters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from skerry.converter.attention import open_attention
from skerry.converter.graph import as_tuple
from skerry.converter.steps.config import Criterion
from skerry.converter.steps.groups import ChannelGroup
from skerry.converter.steps.probing import Head, Side, heads_of
from skerry.converter.structure import Removal, Setting, cut, put
from skerry.devices.errors import InputError

__all__ = ["HeadGroup", "fewer", "find_heads", "kept", "open_all", "settled"]

_ATTRIBUTES = 8  # numbers of a module that may depend on how many heads there are
_TOGETHER = 3  # of them, changed at once
_FAILS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, ZeroDivisionError)


@dataclass(frozen=True)
class HeadGroup(ChannelGroup):
    """Heads of an attention; a position is one of them, or those that cannot be parted.

    Attributes:
        parts: channels that a head has in `layer`.
        channels_of: of each side of each layer, those of each head.
    """

    channels_of: Mapping[Side, tuple[tuple[int, ...], ...]]

    def step(self, round_to: int) -> int:
        return round_to // gcd(round_to, self.parts)

    def outputs(self, positions: Sequence[int]) -> dict[str, list[int]]:
        return {one.layer: list(one.channels) for one in self.cuts(positions) if one.outputs}

    def cuts(self, positions: Sequence[int]) -> list[Removal]:
        """What goes with these heads, from every layer before and behind."""
        return [
            Removal(name, outputs, tuple(sorted(one for head in positions for one in heads[head])))
            for (name, outputs), heads in self.channels_of.items()
        ]


def open_all(model: nn.Module, keep: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Make every `nn.MultiheadAttention` of `model` one that can lose heads.

    Args:
        keep: names, or prefixes of names, of those that are to stay.

    Returns:
        Their names, and the reasons why others were left, by name.
    """
    opened, whole = [], {}
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.MultiheadAttention) or kept(name, keep):
            continue
        try:
            open_attention(model, name)
            opened.append(name)
        except InputError as error:
            whole[name] = str(error)
    return tuple(opened), whole


def find_heads(
    model: nn.Module, example: Sequence[Tensor], keep: Sequence[str], criterion: Criterion
) -> tuple[list[HeadGroup], dict[str, str]]:
    """Every attention of `model` whose heads can be told apart.

    Args:
        model: in eval mode; with gradients where the criterion is `taylor`.
        example: inputs as it takes them.
        keep: names, or prefixes of names, of layers that keep their outputs.
        criterion: how much a head matters; there is no batch norm in one, so `bn_scale` is
            `magnitude`.

    Returns:
        The attentions, and the reasons why others stay whole, by the layers before them.
    """
    order = {name: number for number, (name, _) in enumerate(model.named_modules())}
    found, whole = [], {}
    for heads in _attentions(heads_of(model, example)):
        sides = sorted({side for head in heads for side in head}, key=lambda s: (order[s[0]], s[1]))
        layers = tuple(name for name, outputs in sides if outputs)
        if any(kept(name, keep) for name in layers):
            continue
        if reason := _uneven(model, heads, sides):
            whole[", ".join(layers)] = reason
            continue
        channels = {side: tuple(tuple(sorted(head[side])) for head in heads) for side in sides}
        parts = len(channels[layers[0], True][0])
        importance = _importance(model, channels, criterion)
        found.append(HeadGroup(layers[0], parts, importance, layers, False, channels))
    return found, whole


def kept(name: str, keep: Sequence[str]) -> bool:
    """Whether a name, or a prefix of it, is among those of `keep`."""
    return any(name == one or name.startswith(f"{one}.") for one in keep)


def _attentions(heads: Sequence[Head]) -> list[list[Head]]:
    """Heads that the same layers have, in the order of their channels."""
    found: dict[frozenset[Side], list[Head]] = {}
    for head in heads:
        sides, together = frozenset(head), [head]
        for other in [one for one in found if one & sides]:
            together += found.pop(other)
            sides |= other
        found[sides] = together
    return [
        sorted(group, key=lambda head: min(min(channels) for channels in head.values()))
        for group in found.values()
    ]


def _uneven(model: nn.Module, heads: Sequence[Head], sides: Sequence[Side]) -> str:
    """Why these heads cannot be taken out one by one; empty where they can."""
    if len(heads) == 1:
        return "there is one head, or they share their channels"
    for name, outputs in sides:
        layer: Any = model.get_submodule(name)
        sizes = {len(head.get((name, outputs), ())) for head in heads}
        width = layer.weight.shape[0 if outputs else 1]
        if getattr(layer, "groups", 1) > 1 or len(sizes) > 1 or width != sizes.pop() * len(heads):
            return f"its heads do not share out the channels of {name} evenly"
    return ""


def _importance(
    model: nn.Module, channels: Mapping[Side, Sequence[Sequence[int]]], criterion: Criterion
) -> Tensor:
    """Of each head, over all its weights: their squares, or what they change the loss by."""
    total = torch.zeros(len(next(iter(channels.values()))), dtype=torch.float64)
    for (name, outputs), heads in channels.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        change = weight.grad if criterion == "taylor" else None
        each = weight.square() if change is None else (weight * change).abs()
        each = each.detach().double().cpu().movedim(0 if outputs else 1, 0).flatten(1).sum(1)
        total += torch.stack([each[list(head)].sum() for head in heads])
    return total


@torch.no_grad()
def settled(
    model: nn.Module, group: HeadGroup, example: Sequence[Tensor]
) -> tuple[Setting, ...] | None:
    """What modules must know when heads of `group` go, or None if the model cannot run without.

    One head is silenced on a copy, then taken out. The layers behind must read the same but for its
    channels, with as few numbers changed as need be. The model's own code is what decides: numbers
    are those that any module near keeps, whatever they are called.

    Returns:
        The numbers as they are before, each to be multiplied by the share of heads that stay.
    """
    trial = copy.deepcopy(model).eval()
    cuts = group.cuts([0])
    for one in cuts:
        layer: Any = trial.get_submodule(one.layer)
        for parameter in (layer.weight, layer.bias) if one.outputs else ():
            if parameter is not None:
                parameter[list(one.channels)] = 0
    wanted, read = _run(trial, cuts, example)
    for one in cuts:
        gone = set(one.channels)
        if not one.outputs:
            axis, value = read[one.layer]
            stay = [i for i in range(value.shape[axis]) if i not in gone]
            read[one.layer] = (axis, value.index_select(axis, torch.tensor(stay)))
        cut(trial.get_submodule(one.layer), one.outputs, one.channels)
    for numbers in _choices(model, group):
        for number in numbers:
            put(trial, fewer(number, group.channels - 1, group.channels))
        try:
            given, found = _run(trial, cuts, example)
            if _alike(given, wanted) and all(_alike([found[k][1]], [read[k][1]]) for k in read):
                return numbers
        except _FAILS:
            pass
        for number in numbers:
            put(trial, number)
    return None


def fewer(number: Setting, stay: int, heads: int) -> Setting:
    """The number when so many of the heads stay."""
    return Setting(number.module, number.attribute, max(1, number.value * stay // heads))


def _choices(model: nn.Module, group: HeadGroup) -> Iterator[tuple[Setting, ...]]:
    """Numbers that may depend on the number of heads: none, each one, each two, …"""
    names = [name for name, _ in group.channels_of]
    shared = _shared([name.split(".") for name in names])
    numbers = []
    for name, module in model.named_modules():
        inside = not shared or name.split(".")[: len(shared)] == shared
        if not inside or type(module).__module__.startswith("torch.nn."):
            continue
        for attribute, value in sorted(vars(module).items()):
            whole = type(value) is int and value > 1 and value % group.channels == 0
            if whole and not attribute.startswith("_"):
                numbers.append(Setting(name, attribute, value))
    numbers = numbers[:_ATTRIBUTES]
    return chain.from_iterable(combinations(numbers, count) for count in range(_TOGETHER + 1))


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    """What all paths begin with, short of their ends."""
    found = []
    for parts in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        found.append(parts[0])
    return found


def _run(
    model: nn.Module, cuts: Sequence[Removal], example: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, tuple[int, Tensor]]]:
    """What the model gives, and what the layers behind the heads take, with its channels' axis."""
    read: dict[str, tuple[int, Tensor]] = {}
    hooks = []
    for one in cuts:
        if not one.outputs:
            layer = model.get_submodule(one.layer)
            axis = -1 if isinstance(layer, nn.Linear) else 1

            def take(_: nn.Module, inputs: Any, name: str = one.layer, axis: int = axis) -> None:
                read[name] = (axis, inputs[0])

            hooks.append(layer.register_forward_pre_hook(take))
    try:
        return as_tuple(model(*example)), read
    finally:
        for hook in hooks:
            hook.remove()


def _alike(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return len(found) == len(wanted) and all(
        one.shape == other.shape and torch.allclose(one, other, 1e-3, 1e-4)
        for one, other in zip(found, wanted, strict=True)
    )
