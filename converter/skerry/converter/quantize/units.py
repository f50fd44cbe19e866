"""Layers by name: what a person can raise to a higher precision, and what is then left alone.

A unit is an operation that makes new values: a convolution or linear layer, an addition, an
average. What only moves values follows the unit before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Graph, Node

from skerry.converter.quantize.patterns import Placement, Role, analyse
from skerry.converter.quantize.scheme import Scheme
from skerry.devices.errors import InputError

__all__ = ["Unit", "layer_name", "levels", "mark", "unit_of", "units"]

_OPERATION, _RESULT = "skerry_operation", "skerry_result"


@dataclass(frozen=True, slots=True)
class Unit:
    """One layer.

    Attributes:
        name: of the module it comes from; a second operation of the same module adds `#2`.
        placement: what is quantized of it.
    """

    name: str
    placement: Placement

    @property
    def operation(self) -> str:
        """Such as `conv2d`."""
        return str(self.placement.node.target).removeprefix("aten.").partition(".")[0]


def layer_name(node: Node) -> str:
    """The module that an operation comes from, or its own name."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return (str(stack[-1][0]).removeprefix("model.") if stack else "") or node.name


def units(graph: Graph) -> tuple[Unit, ...]:
    """Every layer of a functional ATen graph that can run in integers, in graph order."""
    taken: dict[str, int] = {}
    found = []
    for placement in analyse(graph):
        if placement.role is Role.SHARED:
            continue
        name = layer_name(placement.node)
        taken[name] = taken.get(name, 0) + 1
        found.append(Unit(name if taken[name] == 1 else f"{name}#{taken[name]}", placement))
    return tuple(found)


def mark(unit: Unit) -> None:
    """Write a unit's name to its operation and its result, where preparation keeps it."""
    unit.placement.node.meta[_OPERATION] = unit.name
    unit.placement.output.meta[_RESULT] = unit.name


def unit_of(node: Node) -> tuple[str, str]:
    """The units whose operation and whose result a node is, or empty names."""
    return node.meta.get(_OPERATION, ""), node.meta.get(_RESULT, "")


def levels(found: Sequence[Unit], scheme: Scheme) -> dict[Node, str]:
    """The precision of each layer that the scheme raises, by its operation.

    Raises:
        InputError: the scheme names a layer that is not there.
    """
    by_name = {unit.name: unit.placement.node for unit in found}
    for name, _ in scheme.raised:
        if name not in by_name:
            raise InputError(
                f"there is no layer {name!r}",
                where="quantize.layers",
                remedy=f"the layers are: {', '.join(by_name)}",
            )
    return {by_name[name]: level for name, level in scheme.raised if level != "int8"}
