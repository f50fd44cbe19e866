"""Latency by counting: multiply-adds and operators, times what each takes on a profile.

Counted latency is the same on every run and every machine, so a search that uses it can be killed
and repeated. It is an estimate; candidates are measured as well, and the report shows both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule

from skerry.converter.quantize.constants import constant
from skerry.converter.quantize.units import units
from skerry.devices.errors import InputError

__all__ = ["LatencyTable", "Work", "latency_table", "work_of"]


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """What one thread of a machine takes.

    Attributes:
        operator_us: microseconds for each operator, by precision (`fp32`, `int8`).
        multiply_add_ps: picoseconds for each multiply-add, likewise.
    """

    operator_us: Mapping[str, float]
    multiply_add_ps: Mapping[str, float]

    def milliseconds(self, work: Work) -> float:
        """For one row."""
        taken = sum(
            self.operator_us[kind] * count * 1e6 for kind, count in work.operators.items()
        ) + sum(self.multiply_add_ps[kind] * count for kind, count in work.multiply_adds.items())
        return taken / 1e9


@dataclass(frozen=True, slots=True)
class Work:
    """What one row costs, by precision.

    Attributes:
        operators: convolutions, linear layers, additions and averages.
        multiply_adds: of convolutions and linear layers.
        weight_bytes: of everything that is stored, scales and biases included.
    """

    operators: Mapping[str, int]
    multiply_adds: Mapping[str, int]
    weight_bytes: int


# Fitted to the medians of ResNet20 and ResNet56 on one thread of an AMD EPYC with AVX-512 VNNI.
_TABLES = {
    ("x86-64-vnni", "onnx"): LatencyTable({"fp32": 0.5, "int8": 1.2}, {"fp32": 10.0, "int8": 4.2}),
    ("x86-64-vnni", "tflite"): LatencyTable({"fp32": 4.5, "int8": 2.2}, {"fp32": 8.0, "int8": 2.4}),
}
_STORED = {"int8": 1, "int16": 1, "fp16": 2, "fp32": 4}


def latency_table(profile: str, form: str) -> LatencyTable:
    """The table of a profile and format.

    Raises:
        InputError: there is none.
    """
    if (profile, form) not in _TABLES:
        known = ", ".join(f"{one} with {two}" for one, two in _TABLES)
        raise InputError(
            f"there is no latency table for {profile} with {form}",
            where="--latency counted",
            remedy=f"there are: {known}; or measure here with --latency measured",
        )
    return _TABLES[profile, form]


def work_of(graph: GraphModule, levels: Mapping[str, str], default: str) -> Work:
    """The work in a captured graph.

    Args:
        levels: precision of layers by name, as in `skerry.converter.quantize.units`.
        default: of the other layers: `int8`, `fp16` or `fp32`.
    """
    operators: dict[str, int] = {}
    adds: dict[str, int] = {}
    stored = 0
    for unit in units(graph.graph):
        level = levels.get(unit.name, default)
        computed = "int8" if level == "int8" else "fp32"
        operators[computed] = operators.get(computed, 0) + 1
        placement = unit.placement
        if placement.weight is None:
            continue
        weight = constant(graph, placement.weight)
        channels = weight.shape[placement.channel_axis]
        result = placement.node.meta["val"]
        each = 1
        for length in result.shape[1:]:
            each *= int(length)
        adds[computed] = adds.get(computed, 0) + each * weight.numel() // channels
        scales = 4 * channels if level in ("int8", "int16") else 0
        stored += weight.numel() * _STORED[level] + scales + 4 * channels
    return Work(operators, adds, stored)
