"""Run a decided graph with one layer rounded and everything else in floating point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from skerry.converter.emit.support import Level
from skerry.converter.quantize.observers import Decided
from skerry.converter.quantize.units import unit_of

__all__ = ["Site", "alone", "sites"]

_Rounding = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a layer is rounded in a decided graph.

    Attributes:
        layer: its name, as in `skerry.converter.quantize.units`.
        operation: such as `conv2d`.
        weights: the names of nodes that round its weight.
        activations: of those that round what it reads and what it gives.
    """

    layer: str
    operation: str
    weights: tuple[str, ...]
    activations: tuple[str, ...]


def sites(decided: GraphModule) -> tuple[Site, ...]:
    """Every layer of a decided graph, in its order."""
    results = {unit_of(node)[1]: node for node in decided.graph.nodes if unit_of(node)[1]}
    found = []
    for node in decided.graph.nodes:
        name = unit_of(node)[0]
        if not name:
            continue
        read = [one for one in node.all_input_nodes if _rounds(decided, one)]
        given = [one for one in results[name].users if _rounds(decided, one)]
        weights = [one for one in read if one.all_input_nodes[0].op == "get_attr"]
        activations = [one for one in (*read, *given) if one not in weights]
        operation = str(node.target).removeprefix("aten.").partition(".")[0]
        found.append(Site(name, operation, _names(weights), _names(activations)))
    return tuple(found)


def alone(decided: GraphModule, site: Site, level: Level) -> Callable[..., Any]:
    """The graph as a function, all in floating point but for one layer at this level.

    Sixteen bits for activations are taken for none: what they lose is far below all else here.
    """
    parts = dict(decided.named_modules(remove_duplicate=False))
    targets = {node.name: str(node.target) for node in decided.graph.nodes}
    rounded: dict[str, _Rounding] = {}
    if level in ("int8", "int16"):
        rounded |= {name: parts[targets[name]] for name in site.weights}
    if level == "int8":
        rounded |= {name: parts[targets[name]] for name in site.activations}
    if level == "fp16":
        rounded |= dict.fromkeys(site.weights, _half)
    return _Alone(decided, rounded).run


class _Alone(Interpreter):
    """Runs a decided graph with some of its decisions in force."""

    def __init__(self, decided: GraphModule, rounded: Mapping[str, _Rounding]) -> None:
        super().__init__(decided)
        self._rounded = rounded

    def run_node(self, n: Node) -> Any:
        """A decision hands its tensor on unchanged, unless it is in force."""
        if not _rounds(self.module, n):
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        return self._rounded.get(n.name, _unchanged)(args[0])


def _rounds(decided: torch.nn.Module, node: Node) -> bool:
    is_part = node.op == "call_module"
    return is_part and isinstance(decided.get_submodule(str(node.target)), Decided)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _half(weight: Tensor) -> Tensor:
    return weight.half().float()


def _names(nodes: list[Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)
