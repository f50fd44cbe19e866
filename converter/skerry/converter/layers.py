"""Where quantization hurts: the noise that each layer adds, and what has gathered up to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import Tensor, fx

from skerry.converter.metric import snr_db
from skerry.converter.quantize import QuantizedModel
from skerry.converter.quantize.units import layer_name

__all__ = ["LayerNoise", "layer_noise"]

_QUIET_DB = 190.0


class LayerNoise(msgspec.Struct, frozen=True):
    """One operation of the quantized graph.

    Attributes:
        layer: the module it comes from, or its own name.
        operation: such as `conv2d`.
        own_db: signal-to-noise ratio of its output if only its own inputs and weights were
            quantized.
        gathered_db: with everything before it quantized as well.
    """

    layer: str
    operation: str
    own_db: float
    gathered_db: float


@torch.no_grad()
def layer_noise(model: QuantizedModel, inputs: tuple[Tensor, ...]) -> tuple[LayerNoise, ...]:
    """The noise at every operation that has quantized inputs, in the graph's order.

    Each node is computed three times: in float, with its own inputs quantized, and with everything
    quantized.

    Args:
        inputs: some rows, as callers pass them.
    """
    rows = iter(inputs)
    graph = model.decided
    parts = dict(graph.named_modules(remove_duplicate=False))
    values: dict[fx.Node, tuple[Any, Any, Any]] = {}
    found = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = (row := next(rows), row, row)
        elif node.op == "get_attr":
            constant = _attribute(graph, str(node.target))
            values[node] = (constant, constant, constant)
        elif node.op == "call_module":
            exact, _, gathered = values[node.args[0]]
            rounded = parts[str(node.target)]
            values[node] = (exact, rounded(exact), rounded(gathered))
        elif node.op == "call_function":
            exact, own, gathered = (_call(node, values, which) for which in range(3))
            values[node] = (exact, exact, gathered)
            if isinstance(exact, Tensor) and exact.is_floating_point() and _rounded_inputs(node):
                found.append(_noise(node, exact, own, gathered))
    return tuple(one for one in found if one.own_db < _QUIET_DB)


def _attribute(graph: fx.GraphModule, name: str) -> Any:
    found: Any = graph
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _call(node: fx.Node, values: dict[fx.Node, tuple[Any, Any, Any]], which: int) -> Any:
    def value(one: fx.Node) -> Any:
        return values[one][which]

    function: Callable[..., Any] = node.target  # type: ignore[assignment]  # of a call_function it is
    return function(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))


def _rounded_inputs(node: fx.Node) -> bool:
    return any(one.op == "call_module" for one in node.all_input_nodes)


def _noise(node: fx.Node, exact: Tensor, own: Tensor, gathered: Tensor) -> LayerNoise:
    operation = str(node.target).removeprefix("aten.").partition(".")[0]
    reference = exact.numpy()
    return LayerNoise(
        layer=layer_name(node),
        operation=operation,
        own_db=round(snr_db(reference, own.numpy()), 3),
        gathered_db=round(snr_db(reference, gathered.numpy()), 3),
    )
