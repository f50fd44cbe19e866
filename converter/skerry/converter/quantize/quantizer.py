"""Our PT2E quantizer: turns placements into annotations. Knows no observer; they are handed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from skerry.converter.quantize.patterns import Placement, Role, analyse
from skerry.converter.quantize.ranges import ACTIVATION_MAX, ACTIVATION_MIN, WIDE
from skerry.converter.quantize.scheme import Scheme
from skerry.converter.quantize.units import levels, mark, units

__all__ = ["Observers", "SkerryQuantizer"]


@dataclass(frozen=True, slots=True)
class Observers:
    """What is put at activations and weights: collectors after training, fake quantizers in it.

    Each is what an observer class's `with_args(...)` gives.
    """

    activation: Any
    weight: Any


class SkerryQuantizer(Quantizer):  # type: ignore[misc]  # torchao has no types
    """One scheme for ONNX, TFLite and Core ML.

    Args:
        scheme: what to quantize to.
        observers: what to watch or imitate it with.
    """

    def __init__(self, scheme: Scheme, observers: Observers) -> None:
        super().__init__()
        self._scheme = scheme
        self._observers = observers

    def annotate(self, model: GraphModule) -> GraphModule:
        """Write an annotation to every node that is to run in integers.

        Raises:
            InputError: the scheme raises a layer that is not there.
        """
        found = units(model.graph)
        for unit in found:
            mark(unit)
        raised = levels(found, self._scheme)
        floating = {node for node, level in raised.items() if level != "int16"}
        wide: set[Node] = set()  # results of 16 bits
        for placement in analyse(model.graph, floating):
            moves = placement.role is Role.SHARED and not wide.isdisjoint(placement.inputs)
            is_wide = moves or placement.node in raised
            if is_wide:
                wide.add(placement.output)
            self._annotate(placement, self._activation(wide=is_wide))
        return model

    def validate(self, model: GraphModule) -> None:
        """Every annotation comes from the rules, so there is nothing more to check."""

    def _annotate(self, placed: Placement, activation: QuantizationSpec) -> None:
        first = placed.inputs[0]
        shared = SharedQuantizationSpec((first, placed.node))
        inputs: dict[Node, QuantizationSpecBase] = {first: activation}
        for other in placed.inputs[1:]:
            inputs[other] = shared if placed.role is Role.SHARED else activation
        if placed.weight is not None:
            inputs[placed.weight] = self._weight(placed.channel_axis)
        output = shared if placed.role is Role.SHARED else activation
        at_node = output if placed.output is placed.node else None
        placed.node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            input_qspec_map=inputs, output_qspec=at_node, _annotated=True
        )
        if placed.output is not placed.node:
            placed.output.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                output_qspec=output, _annotated=True
            )

    def _activation(self, *, wide: bool) -> QuantizationSpec:
        return QuantizationSpec(
            dtype=torch.int16 if wide else torch.int8,
            observer_or_fake_quant_ctr=self._observers.activation,
            quant_min=-WIDE if wide else ACTIVATION_MIN,
            quant_max=WIDE if wide else ACTIVATION_MAX,
            qscheme=torch.per_tensor_affine,
        )

    def _weight(self, axis: int) -> QuantizationSpec:
        limit = self._scheme.weight_limit
        return QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=self._observers.weight,
            quant_min=-limit,
            quant_max=limit,
            qscheme=torch.per_channel_symmetric,
            ch_axis=axis,
        )
