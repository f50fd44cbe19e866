"""Rounding weights alone: the decision behind int8 weight-only, int8 dynamic and int4.

Weights are put on their grid and stay float here; each emitter stores the integers they stand for.
Since the largest weight of a channel or block lies on the grid's end, they can be read back.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule

from skerry.converter.quantize.constants import constant, set_constant
from skerry.converter.quantize.patterns import layer_of
from skerry.converter.quantize.scheme import Scheme
from skerry.converter.quantize.units import levels, units
from skerry.devices.errors import UnsupportedError

__all__ = ["BLOCK", "halve_weights", "on_grid", "round_weights"]

BLOCK = 32  # weights of one int4 scale, along the input axis of a linear layer


def on_grid(weight: Tensor, limit: int, axes: tuple[int, ...]) -> Tensor:
    """Round symmetrically to integers -limit..limit, one scale for each slice over `axes`."""
    scale = weight.abs().amax(dim=axes, keepdim=True) / limit
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.clamp(torch.round(weight / scale), -limit, limit) * scale


def round_weights(graph_module: GraphModule, *, blocks: bool, limit: int = 127) -> None:
    """Put, in place, the weight of every convolution and linear layer on its grid.

    Args:
        blocks: linear layers whose input length is a multiple of `BLOCK` take int4 by blocks;
            all others take int8 by output channels.
        limit: the largest int8 weight.
    """
    done = set()
    for node in graph_module.graph.nodes:
        layer = layer_of(node)
        if layer is None or layer.weight in done:
            continue
        done.add(layer.weight)
        weight = constant(graph_module, layer.weight)
        if blocks and weight.ndim == 2 and weight.shape[1] % BLOCK == 0:
            rounded = on_grid(weight.reshape(len(weight), -1, BLOCK), 7, (2,)).reshape(weight.shape)
        else:
            others = tuple(axis for axis in range(weight.ndim) if axis != layer.axis)
            rounded = on_grid(weight, limit, others)
        set_constant(graph_module, layer.weight, rounded)


def halve_weights(graph_module: GraphModule, scheme: Scheme) -> None:
    """Put, in place, the weight of every layer that the scheme raises to fp16 on float16's grid.

    Emitters store what lies on it in two bytes, so the file says exactly what the graph does.

    Raises:
        InputError: the scheme names a layer that is not there.
        UnsupportedError: a weight lies beyond float16's range.
    """
    found = units(graph_module.graph)
    raised = levels(found, scheme)
    for unit in found:
        weight = unit.placement.weight
        if weight is None or raised.get(unit.placement.node) != "fp16":
            continue
        exact = constant(graph_module, weight)
        if float(exact.abs().max()) > torch.finfo(torch.float16).max:
            raise UnsupportedError(
                "a weight is beyond the range of float16",
                where=unit.name,
                remedy="raise this layer to fp32",
            )
        set_constant(graph_module, weight, exact.half().float())
