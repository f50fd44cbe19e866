"""A model whose quantization is decided."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from skerry.converter.quantize.capture import set_inference
from skerry.converter.quantize.scheme import Scheme

__all__ = ["QuantizedModel"]


@dataclass(frozen=True)
class QuantizedModel:
    """One decision, from which every format is emitted.

    Attributes:
        decided: the graph with a `Decided` at each quantized tensor; weights still float. It is
            not changed by anything here.
        scheme: what was asked for.
        example: one tensor per input, to trace with.
    """

    decided: GraphModule = field(repr=False)
    scheme: Scheme
    example: tuple[Tensor, ...] = field(repr=False)

    def graph(self, *, fold: bool) -> GraphModule:
        """A new graph with quantize and dequantize operations.

        Args:
            fold: store weights as integers (ONNX, Core ML); else quantize them in the graph, as
                the TFLite converter wants. The integers are the same.
        """
        converted: GraphModule = convert_pt2e(copy.deepcopy(self.decided), fold_quantize=fold)
        set_inference(converted)
        return converted

    @cached_property
    def module(self) -> GraphModule:
        """The fake-quantized model, to run in PyTorch; axis 0 of its inputs is free."""
        return self.graph(fold=True)

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the fake-quantized model."""
        with torch.no_grad():
            result: Tensor | tuple[Tensor, ...] = self.module(*inputs)
        return result
