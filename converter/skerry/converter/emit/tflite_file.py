"""TFLite: lower the graph by litert-torch, then give the file the signature callers know."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from skerry.converter.emit.artifact import Emitted, Signature
from skerry.converter.emit.inputs import (
    ROUNDED,
    Named,
    float_module,
    one_row,
    output_specs_fit,
    prepared_path,
)
from skerry.converter.emit.tflite_edit import (
    exact_halves,
    float_ends,
    half_weights,
    plain_names,
    single_scales,
)
from skerry.converter.emit.tflite_weights import integer_weights
from skerry.converter.quantize.model import QuantizedModel
from skerry.devices.errors import InputError, UnsupportedError
from skerry.devices.files import write_atomically
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["emit_tflite"]

# The converter narrows what no device kernel takes.
_CARRIED_AS = {"int64": "int32", "float64": "float32"}


def emit_tflite(
    model: nn.Module | QuantizedModel,
    precision: str,
    example: tuple[Tensor, ...],
    signature: Signature,
    folder: Path,
) -> Emitted:
    """Write `model-<precision>.tflite`; see `skerry.converter.emit.emit`. Its batch is 1."""
    row = one_row(example)
    if precision == "int8":
        if not isinstance(model, QuantizedModel):
            raise InputError("int8 needs a quantized model", where="emit", remedy="calibrate first")
        module: nn.Module = model.graph(fold=False)
    else:
        module = float_module(model, precision, example)
    output_specs_fit(module, row, signature)
    raised = isinstance(model, QuantizedModel) and bool(model.scheme.raised)
    with _only_what_is_written() if raised else contextlib.nullcontext():
        content = _convert(module, row, signature, integer=precision == "int8")
    content = plain_names(float_ends(content))
    if precision == "int8":
        content = exact_halves(single_scales(content))
    if precision == "fp16":
        content = half_weights(content)
    if precision in ROUNDED:
        content = integer_weights(content, precision)
    path = prepared_path(folder, precision, ".tflite")
    write_atomically(path, content)
    return Emitted(
        path=path,
        format="tflite",
        precision=precision,
        inputs=tuple(_one_row(spec) for spec in signature.inputs),
        outputs=tuple(_one_row(spec) for spec in signature.outputs),
    )


def _convert(
    module: nn.Module, row: tuple[Tensor, ...], signature: Signature, *, integer: bool
) -> bytes:
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import (
        PT2EQuantizer,
        get_symmetric_quantization_config,
    )
    from litert_torch.quantize.quant_config import QuantConfig

    # The stock quantizer annotates nothing here: it is the switch that makes the converter keep
    # integers, and the graph brings its own parameters.
    switch = PT2EQuantizer().set_global(get_symmetric_quantization_config())
    _lay_out(module)
    named = dict(zip(signature.input_names, row, strict=True))
    logging.getLogger("litert_torch").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            converted = litert_torch.convert(
                Named(module, signature),
                sample_kwargs=named,
                quant_config=QuantConfig(pt2e_quantizer=switch) if integer else None,
            )
            content: bytes = converted.model_content()
    except Exception as error:
        raise UnsupportedError(
            f"the TFLite converter cannot lower the model: {str(error).splitlines()[0]}",
            where="tflite",
            remedy="leave tflite out of the targets, or replace the operator that it names",
        ) from error
    return content


def _lay_out(module: nn.Module) -> None:
    """Lay every constant out row by row; its values stay.

    The converter copies constants of another layout, and knows each by its address: two of one
    shape may get one address, one after the other, and then both become the first.
    """
    for part in module.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            tensor.data = tensor.data.contiguous()
        for value in vars(part).values():
            if isinstance(value, Tensor):
                value.data = value.data.contiguous()


@contextlib.contextmanager
def _only_what_is_written() -> Iterator[None]:
    """Let the converter quantize what the graph quantizes, and nothing else.

    By default it rounds the constants of any layer between integers, which undoes mixed precision.
    The setting is there, but litert-torch hands it on in its second converter alone, which needs a
    TensorFlow of its own; so it is set where the first one makes its configuration.
    """
    from litert_converter.mlir._mlir_libs import converter_api_ext

    ordinary = converter_api_ext.ConvertToTFLConfig

    def strict() -> Any:
        config = ordinary()
        config.strict_qdq_mode = True
        return config

    converter_api_ext.ConvertToTFLConfig = strict
    try:
        yield
    finally:
        converter_api_ext.ConvertToTFLConfig = ordinary


def _one_row(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, _CARRIED_AS.get(spec.dtype, spec.dtype), (1, *spec.shape[1:]))
