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
from skerry.converter.quantize.ranges import ACTIVATION_MAX, ACTIVATION_MIN
from skerry.converter.quantize.scheme import Scheme

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
        """Write an annotation to every node that is to run in integers."""
        for placement in analyse(model.graph):
            self._annotate(placement)
        return model

    def validate(self, model: GraphModule) -> None:
        """Every annotation comes from the rules, so there is nothing more to check."""

    def _annotate(self, placed: Placement) -> None:
        activation = self._activation()
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

    def _activation(self) -> QuantizationSpec:
        return QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=self._observers.activation,
            quant_min=ACTIVATION_MIN,
            quant_max=ACTIVATION_MAX,
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
