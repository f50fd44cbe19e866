"""Emit three times: an ONNX, a TFLite and a Core ML file from one model and one quantization.

Importing this loads no framework, so that a recipe can be refused before any work is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skerry.converter.emit.artifact import Emitted, Signature, Tuning
from skerry.converter.emit.support import (
    PRECISIONS,
    SUPPORT,
    refuse_estimator,
    refuse_unsupported,
    unsupported,
)
from skerry.runtime.bundle.card import Format

if TYPE_CHECKING:
    from torch import Tensor, nn

    from skerry.converter.quantize import QuantizedModel
    from skerry.converter.source.estimator import Estimator

__all__ = [
    "PRECISIONS",
    "SUPPORT",
    "Emitted",
    "Signature",
    "Tuning",
    "emit",
    "refuse_unsupported",
    "unsupported",
]


def emit(
    fmt: Format,
    precision: str,
    model: nn.Module | QuantizedModel,
    example: tuple[Tensor, ...],
    signature: Signature,
    folder: Path,
    tuning: Tuning | None = None,
) -> Emitted:
    """Write one artifact into `folder`. The same arguments give the same bytes.

    Args:
        fmt: what kind of file.
        precision: one of `PRECISIONS`; `int8` wants a `QuantizedModel`, the others a module in
            eval mode. Forward takes the tensors of `example` and gives one or a tuple.
        example: one tensor per input, axis 0 the batch.
        signature: the tensors as callers name them, in forward's order.
        folder: where the file goes, as `model-<precision>.onnx`, `.tflite` or `.mlpackage`.
        tuning: what decides the file besides its precision; by default `Tuning()`.

    Raises:
        UnsupportedError: the format has no such precision, or an operator has no lowering.
        InputError: the model cannot be traced, or does not fit the signature.
    """
    refuse_unsupported(fmt, precision)
    tuning = tuning or Tuning()
    if estimator := _estimator_in(model):
        refuse_estimator(fmt, precision)
        from skerry.converter.emit.estimator_file import emit_estimator

        return emit_estimator(estimator, signature, folder)
    if fmt == "onnx":
        from skerry.converter.emit.onnx_file import emit_onnx

        return emit_onnx(model, precision, example, signature, folder, tuning.target)
    if fmt == "tflite":
        from skerry.converter.emit.tflite_file import emit_tflite

        return emit_tflite(model, precision, example, signature, folder)
    from skerry.converter.emit.coreml_file import emit_coreml

    return emit_coreml(model, precision, example, signature, folder, tuning.sparsity)


def _estimator_in(model: object) -> Estimator | None:
    """The scikit-learn estimator that is all of a deployable model, or None."""
    from skerry.converter.source.estimator import Estimator

    inner = getattr(model, "model", model)
    return inner if isinstance(inner, Estimator) else None
