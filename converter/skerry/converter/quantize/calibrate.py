"""Quantization after training: watch calibration data pass by, then decide once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from skerry.converter.quantize.adaround import learn_rounding
from skerry.converter.quantize.bias import correct_bias
from skerry.converter.quantize.capture import capture
from skerry.converter.quantize.equalize import equalize
from skerry.converter.quantize.fold import fold_linear
from skerry.converter.quantize.headroom import fit_biases
from skerry.converter.quantize.model import QuantizedModel
from skerry.converter.quantize.observers import ActivationCollector, WeightCollector
from skerry.converter.quantize.quantizer import Observers, SkerryQuantizer
from skerry.converter.quantize.scheme import Scheme
from skerry.converter.quantize.twin import Moment, run_twins
from skerry.converter.quantize.weights import halve_weights
from skerry.devices.errors import UnsupportedError

__all__ = ["calibrate", "prepare"]

_KEPT_ROWS = 256  # what refinements work on at once; their memory grows with it


def calibrate(
    module: nn.Module,
    example: tuple[Tensor, ...],
    batches: Iterable[tuple[Tensor, ...]],
    scheme: Scheme | None = None,
) -> QuantizedModel:
    """Quantize a trained model from examples of its data.

    Args:
        module: in eval mode; forward takes the tensors of `example` and gives one tensor or a
            tuple. It is not changed.
        example: one tensor per input, axis 0 the batch.
        batches: calibration data, each item like `example` with any number of rows.
        scheme: what to quantize to; by default `Scheme()`.

    Raises:
        InputError: the model cannot be traced, holds values that are not finite, or there is no
            calibration data.
        UnsupportedError: nothing in the model can be quantized.
    """
    scheme = scheme or Scheme()
    prepared = prepare(module, example, scheme)
    kept = _Kept()
    with torch.no_grad():
        for batch in batches:
            prepared(*batch)
            if {"adaround", "bias_correction"} & set(scheme.refinements):
                kept.add(batch)
    decided = _decide(prepared)
    fit_biases(decided, per_channel=scheme.per_channel)
    if kept:
        _refine(decided, kept.rows(), scheme)
    return QuantizedModel(decided, scheme, tuple(x[:1].clone() for x in example))


def prepare(module: nn.Module, example: tuple[Tensor, ...], scheme: Scheme) -> GraphModule:
    """The module's graph with a collector at each tensor that is to be quantized.

    Raises:
        InputError: the model cannot be traced.
        UnsupportedError: nothing in the model can be quantized.
    """
    graph_module = capture(module, example)
    fold_linear(graph_module)
    if "equalization" in scheme.refinements:
        equalize(graph_module)
    halve_weights(graph_module, scheme)
    observers = Observers(
        activation=ActivationCollector.with_args(scheme=scheme),
        weight=WeightCollector.with_args(scheme=scheme),
    )
    prepared: GraphModule = prepare_pt2e(graph_module, SkerryQuantizer(scheme, observers))
    if not any(isinstance(part, WeightCollector) for part in prepared.modules()):
        raise UnsupportedError(
            "the model has no convolution or linear layer that can be quantized",
            where="quantize",
            remedy="ask for fp32 or fp16 only",
        )
    return prepared


def _refine(decided: GraphModule, rows: tuple[Tensor, ...], scheme: Scheme) -> None:
    """Repair layer by layer, each seeing what the layers before it have become."""

    def at_layer(moment: Moment) -> None:
        if "adaround" in scheme.refinements:
            learn_rounding(decided, moment)
        if "bias_correction" in scheme.refinements:
            correct_bias(decided, moment)

    run_twins(decided, rows, at_layer)


class _Kept:
    """The first rows of calibration data, for what needs them again."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, batch: tuple[Tensor, ...]) -> None:
        if self._count < _KEPT_ROWS:
            self._batches.append(batch)
            self._count += len(batch[0])

    def rows(self) -> tuple[Tensor, ...]:
        joined = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        return tuple(tensor[:_KEPT_ROWS] for tensor in joined)


def _decide(prepared: GraphModule) -> GraphModule:
    """Replace every collector by its decision; one shared by several tensors stays shared."""
    decisions: dict[int, nn.Module] = {}
    for name, part in list(prepared.named_modules(remove_duplicate=False)):
        if isinstance(part, ActivationCollector | WeightCollector):
            if id(part) not in decisions:
                decisions[id(part)] = part.decide()
            prepared.set_submodule(name, decisions[id(part)])
    prepared.recompile()
    return prepared
