"""Checks and shapes that the three emitters have in common."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from skerry.converter.emit.artifact import Signature
from skerry.converter.quantize.capture import capture
from skerry.converter.quantize.fold import fold_linear
from skerry.converter.quantize.model import QuantizedModel
from skerry.converter.quantize.weights import round_weights
from skerry.devices.errors import InputError

__all__ = ["ROUNDED", "Named", "float_module", "one_row", "output_specs_fit", "prepared_path"]


# Precisions that round weights and nothing else before the emitters.
ROUNDED = ("int8-weights", "int8-dynamic", "int4-weights")


class Named(nn.Module):
    """A module whose inputs and outputs carry the signature's names."""

    def __init__(self, inner: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.inner = inner
        self._inputs, self._outputs = signature.input_names, signature.output_names
        self.training = False

    def forward(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Call by name, answer by name."""
        result = self.inner(*[tensors[name] for name in self._inputs])
        results = result if isinstance(result, tuple | list) else (result,)
        return dict(zip(self._outputs, results, strict=True))


def float_module(
    model: nn.Module | QuantizedModel,
    precision: str,
    example: tuple[Tensor, ...],
    limit: int = 127,
) -> nn.Module:
    """The graph to emit where activations stay float: batch norms folded, weights rounded.

    Args:
        limit: the largest int8 weight.

    Raises:
        InputError: the model is quantized already, in training mode, or cannot be traced.
    """
    if isinstance(model, QuantizedModel):
        raise InputError(
            f"a quantized model cannot be emitted as {precision}",
            where="emit",
            remedy="give the module that was quantized",
        )
    if model.training:
        raise InputError("the model is in training mode", where="emit", remedy="call .eval() first")
    graph_module = capture(model, example)
    fold_linear(graph_module)
    if precision in ROUNDED:
        round_weights(graph_module, blocks=precision == "int4-weights", limit=limit)
    return graph_module


def one_row(example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The example with a batch of one, contiguous."""
    return tuple(x[:1].contiguous() for x in example)


def output_specs_fit(module: nn.Module, example: tuple[Tensor, ...], signature: Signature) -> None:
    """Run the module once and compare with the signature.

    Raises:
        InputError: counts, shapes or dtypes differ.
    """
    if len(example) != len(signature.inputs):
        raise InputError(
            f"{len(example)} example inputs for {len(signature.inputs)} inputs", where="signature"
        )
    with torch.no_grad():
        result = module(*example)
    results = result if isinstance(result, tuple | list) else (result,)
    if len(results) != len(signature.outputs):
        raise InputError(
            f"the model gives {len(results)} outputs, the signature has {len(signature.outputs)}",
            where="signature",
        )
    for spec, value in zip(signature.inputs + signature.outputs, [*example, *results], strict=True):
        shape = tuple(value.shape)
        dtype = str(value.dtype).removeprefix("torch.")
        fits = len(shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
        )
        if not fits or dtype != spec.dtype:
            raise InputError(
                f"the model has {dtype} {shape}, the signature says {spec.dtype} {spec.shape}",
                where=spec.name,
            )


def prepared_path(folder: Path, precision: str, suffix: str) -> Path:
    """Where an artifact goes; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"model-{precision}{suffix}"
