"""Taking channels and blocks out of a model, and remembering it."""

from __future__ import annotations

from msgspec.structs import replace
from torch import nn

from skerry.converter.graph import as_tuple
from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Prune
from skerry.converter.steps.depth import blocks, least, skip
from skerry.converter.steps.groups import Graph, unprunable
from skerry.converter.steps.heads import HeadGroup, fewer, find_heads, open_all, settled
from skerry.converter.steps.objective import label_loss
from skerry.converter.steps.ratios import channels_to_go
from skerry.converter.steps.sensitivity import bearable
from skerry.converter.structure import Removal, Setting, Structure, cut, put
from skerry.devices.errors import InputError

__all__ = ["Removing", "remove_blocks", "widths"]

_LOOKED_AT = 256  # rows that blocks and gradients are judged by


def remove_blocks(model: nn.Module, depth: float, bench: Workbench) -> None:
    """Leave out those blocks of `model` that change their input least.

    Raises:
        InputError: it has none, or none would stay.
    """
    skip(model, least(blocks(model, bench.training.example(_LOOKED_AT)), depth))


class Removing:
    """Channels and heads of attentions go from a model, in one or several parts.

    Args:
        config: which, and how many.
        model: changed in place by `to`; attentions are opened at once.
        bench: rows to judge by.

    Attributes:
        whole: attentions that keep all their heads, and why, by layers.
    """

    def __init__(self, config: Prune, model: nn.Module, bench: Workbench) -> None:
        self._config, self._model, self._bench = config, model, bench
        self._round_to = config.round_to or bench.round_to
        example = bench.training.example()
        opened, self.whole = open_all(model, config.keep)
        was = Structure.of(model)
        replace(was, opened=(*was.opened, *opened)).remember(model)
        self._widths = widths(model)
        self._numbers: dict[str, tuple[tuple[Setting, ...], int]] = {}
        heads, whole = find_heads(model.eval(), example, config.keep, "magnitude")
        self.whole |= whole
        for group in heads:
            numbers = settled(model, group, example)
            if numbers is None:
                self.whole[", ".join(group.layers)] = "the model does not run with fewer heads"
            else:
                self._numbers[group.layer] = (numbers, group.channels)
        fixed = [name for group in heads if group.layer in self._numbers for name in group.layers]
        self._fixed = unprunable(model, example, (*config.keep, *fixed))

    def to(self, done: float) -> None:
        """Remove until the share `done` of all that is to go is gone.

        Raises:
            InputError: a ratio empties a layer, or nothing could be removed in the end.
        """
        config, model = self._config, self._model
        example = self._bench.training.example()
        graph = Graph(model, example)
        if config.criterion == "taylor":
            self._leave_gradients()
        groups = graph.groups(self._fixed, config.criterion)
        heads, _ = find_heads(model.eval(), example, config.keep, config.criterion)
        heads = [one for one in heads if one.layer in self._numbers]
        for parameter in model.parameters():
            parameter.grad = None
        every = [*groups, *heads]
        found = {}
        if config.scope == "sensitivity":
            found = bearable(config, model, every, self._bench.training.example(_LOOKED_AT))
        plan = channels_to_go(every, config, self._widths, done, self._round_to, found)
        removals = [
            Removal(group.layer, True, tuple(graph.remove(group, plan[group.layer])))
            for group in groups
            if plan[group.layer]
        ]
        for group in heads:
            self._behead(group, plan[group.layer])
        if done == 1 and widths(model) == self._widths:
            raise InputError(
                "pruning removed nothing", remedy="raise the step's ratio, or lower round_to"
            )
        was = Structure.of(model)
        replace(was, removals=(*was.removals, *removals)).remember(model)

    def _behead(self, group: HeadGroup, positions: list[int]) -> None:
        """Take these heads out, and remember it."""
        model = self._model
        cuts = group.cuts(positions) if positions else []
        numbers, heads = self._numbers[group.layer]
        stay = group.channels - len(positions)
        settings = tuple(fewer(one, stay, heads) for one in numbers) if positions else ()
        for one in cuts:
            cut(model.get_submodule(one.layer), one.outputs, one.channels)
        for setting in settings:
            put(model, setting)
        was = Structure.of(model)
        now = replace(was, cuts=(*was.cuts, *cuts), settings=(*was.settings, *settings))
        now.remember(model)

    def _leave_gradients(self) -> None:
        """Of the loss over some rows, at every parameter."""
        self._model.eval()
        inputs = self._bench.training.example(_LOOKED_AT)
        scores = as_tuple(self._model(*inputs))[0]
        loss = label_loss(scores, self._bench.training.labels[: len(scores)])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, by name."""
    found = {}
    for name, layer in model.named_modules():
        width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        if isinstance(width, int):
            found[name] = width
    return found
