"""What a graph's values are for: who reads them, which are settings, which are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto

from skerry.converter.onnx_import.call import Node
from skerry.converter.onnx_import.module import Program, Step
from skerry.converter.onnx_import.ops import OPERATORS
from skerry.devices.errors import UnsupportedError

__all__ = ["Uses", "check_operators", "is_host", "is_trained", "needs", "uses_of", "with_last_uses"]

_DOMAINS = ("", "ai.onnx")
_HOST_ELEMENTS = 1024
# Inputs that say how to compute, not what with: read as numbers wherever they are constant.
_SETTINGS: dict[str, tuple[int, ...]] = {
    "CenterCropPad": (1,),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **{
        f"Reduce{name}": (1,)
        for name in [
            "L1",
            "L2",
            "LogSum",
            "LogSumExp",
            "Max",
            "Mean",
            "Min",
            "Prod",
            "Sum",
            "SumSquare",
        ]
    },
}
_UNTRAINED: dict[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "BatchNormalization": (3, 4),
}
_UNTRAINED |= {"QLinearConv": tuple(range(8)), "QLinearMatMul": tuple(range(8))}

Uses = Mapping[str, list[tuple[Node, int]]]


def check_operators(graph: GraphProto, where: str) -> None:
    """Refuse a graph with operators that are not known here, naming all of them."""
    missing = set()
    for node in _all_nodes(graph):
        if node.domain not in _DOMAINS:
            missing.add(f"{node.domain}::{node.op_type}")
        elif node.op_type not in OPERATORS and node.op_type != "Constant":
            missing.add(node.op_type)
    if missing:
        raise UnsupportedError(
            f"operators not known here: {', '.join(sorted(missing))}",
            where=where,
            remedy="export the model with other operators",
        )


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g)


def needs(step: Step) -> Iterator[str]:
    """Every value of its own graph that a step reads."""
    yield from step.node.inputs
    for graph in step.graphs.values():
        yield from _captured(graph)


def _captured(graph: Program) -> Iterator[str]:
    for step in graph.steps:
        yield from needs(step)
    yield from graph.outputs


def uses_of(nodes: list[tuple[Node, dict[str, Program]]], outputs: list[str]) -> Uses:
    """Who reads each value, and at which input; -1 where a subgraph or the caller does."""
    uses: dict[str, list[tuple[Node, int]]] = {}
    for node, graphs in nodes:
        for position, name in enumerate(node.inputs):
            uses.setdefault(name, []).append((node, position))
        for graph in graphs.values():
            for name in _captured(graph):
                uses.setdefault(name, []).append((node, -1))
    end = Node("", "outputs", tuple(outputs), (), {}, 0)
    for name in outputs:
        uses.setdefault(name, []).append((end, -1))
    return uses


def is_host(array: NDArray[Any], users: list[tuple[Node, int]]) -> bool:
    """Whether a constant is kept as numbers that are known while the module is traced."""
    if array.dtype.kind in "iub" and array.ndim <= 1 and array.size <= _HOST_ELEMENTS:
        return True
    if array.dtype == np.float32 and array.ndim == 0:
        return True
    return bool(users) and all(position in _SETTINGS.get(node.kind, ()) for node, position in users)


def is_trained(array: NDArray[Any], users: list[tuple[Node, int]]) -> bool:
    """Whether a constant becomes a parameter; else it is a buffer."""
    if array.dtype not in (np.float32, np.float64, np.float16) or array.size <= 1:
        return False
    return not any(position in _UNTRAINED.get(node.kind, ()) for node, position in users)


def with_last_uses(steps: list[Step], outputs: tuple[str, ...]) -> tuple[Step, ...]:
    """`steps`, each with the values that nothing after it needs."""
    last = {name: index for index, step in enumerate(steps) for name in needs(step)}
    dropped: dict[int, list[str]] = {}
    for name, index in last.items():
        if name and name not in outputs:
            dropped.setdefault(index, []).append(name)
    return tuple(
        replace(step, last=tuple(dropped.get(index, ()))) for index, step in enumerate(steps)
    )
