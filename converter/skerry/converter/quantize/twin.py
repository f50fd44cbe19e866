"""Run a decided graph twice at once: in floating point and rounded, side by side.

Layer by layer, so that a method can look at both and repair the rounded one before what follows
sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from skerry.converter.quantize.constants import constant
from skerry.converter.quantize.observers import Decided
from skerry.converter.quantize.patterns import Layer, layer_of

__all__ = ["Moment", "decided_layer", "decision_of", "run_twins"]


@dataclass(frozen=True, slots=True)
class Moment:
    """One layer at the moment both runs reach it.

    Attributes:
        layer: the layer; its weight node is the one behind the decision.
        decision: how its weight is rounded.
        exact: what the float run's layer gives, [rows, channels, …] or [.., channels].
        x: what the rounded run's layer reads.
        call: the layer as a function of (x, weight, bias).
    """

    layer: Layer
    decision: Decided
    exact: Tensor
    x: Tensor
    call: Callable[[Tensor, Tensor, Tensor | None], Tensor]


def run_twins(
    decided: GraphModule, inputs: Sequence[Tensor], at_layer: Callable[[Moment], None]
) -> None:
    """Run both, and call `at_layer` before each rounded layer runs; it may change the constants.

    Args:
        decided: the graph of a `QuantizedModel`.
        inputs: one batch, large enough to take means over.
    """
    values: dict[Node, tuple[Any, Any]] = {}
    waiting = iter(inputs)
    last = _last_readers(decided)
    with torch.no_grad():
        for node in decided.graph.nodes:
            if node.op == "placeholder":
                given = next(waiting)
                values[node] = given, given
            elif node.op == "get_attr":
                pass  # read when it is used, since a layer's turn may change it
            elif node.op != "output":
                values[node] = _both(decided, node, values, at_layer)
            for done in last.get(node, ()):
                values.pop(done, None)


def decision_of(decided: GraphModule, node: Node) -> Decided | None:
    """The decision that a node applies, or None."""
    if node.op != "call_module":
        return None
    part = decided.get_submodule(str(node.target))
    return part if isinstance(part, Decided) else None


def decided_layer(decided: GraphModule, node: Node) -> tuple[Layer, Decided] | None:
    """The layer that a node is, and the decision about its weight; None if it is no such layer."""
    if node.op != "call_function" or len(node.args) < 2 or not isinstance(node.args[1], Node):
        return None
    decision = decision_of(decided, node.args[1])
    source = node.args[1].args[0] if decision is not None else None
    if decision is None or not isinstance(source, Node) or source.op != "get_attr":
        return None
    layer = layer_of(node, weight=source)
    return None if layer is None else (layer, decision)


def _both(
    decided: GraphModule,
    node: Node,
    values: dict[Node, tuple[Any, Any]],
    at_layer: Callable[[Moment], None],
) -> tuple[Any, Any]:
    if decision_of(decided, node) is not None:  # the float run does not round
        return _read(decided, values, 0)(node.args[0]), _run(decided, node, values, 1)
    exact = _run(decided, node, values, 0)
    found = decided_layer(decided, node)
    if found is None:
        return exact, _run(decided, node, values, 1)
    layer, decision = found
    rest = node.args[3:]

    def call(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = node.target(x, weight, bias, *rest)  # type: ignore[operator]  # an op
        return result

    x = _read(decided, values, 1)(layer.x)
    at_layer(Moment(layer, decision, exact, x, call))
    bias = None if layer.bias is None else constant(decided, layer.bias)
    return exact, call(x, decision(constant(decided, layer.weight)), bias)


def _read(decided: GraphModule, values: dict[Node, tuple[Any, Any]], which: int) -> Any:
    def read(node: Any) -> Any:
        if not isinstance(node, Node):
            return node
        if node.op != "get_attr":
            return values[node][which]
        path, _, name = str(node.target).rpartition(".")
        return getattr(decided.get_submodule(path), name)

    return read


def _run(decided: GraphModule, node: Node, values: dict[Node, tuple[Any, Any]], which: int) -> Any:
    read = _read(decided, values, which)
    args, kwargs = map_arg(node.args, read), map_arg(node.kwargs, read)
    if node.op == "call_module":
        return decided.get_submodule(str(node.target))(*args, **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]  # an ATen function


def _last_readers(decided: GraphModule) -> dict[Node, list[Node]]:
    """For each node, the values that nobody reads after it."""
    last: dict[Node, Node] = {}
    for node in decided.graph.nodes:
        for read in node.all_input_nodes:
            last[read] = node
    gone: dict[Node, list[Node]] = {}
    for read, reader in last.items():
        gone.setdefault(reader, []).append(read)
    return gone
