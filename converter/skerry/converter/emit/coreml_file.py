"""Core ML: lower the graph by coremltools into an ML Program package, on any machine."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skerry.converter.emit.artifact import Emitted, Signature
from skerry.converter.emit.coreml_weights import COMPRESSED, NEWEST, compressed_weights
from skerry.converter.emit.inputs import (
    float_module,
    one_row,
    output_specs_fit,
    prepared_path,
)
from skerry.converter.emit.mlpackage import write_package
from skerry.converter.quantize.model import QuantizedModel
from skerry.devices.errors import InputError, UnsupportedError
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["emit_coreml"]

# Words of MIL's own, which coremltools gives to no tensor (mil/passes/defs/preprocess.py).
_RESERVED = re.compile(
    "any|bool|dict|false|func|list|program|state|string|tensor|true|tuple"
    "|bf16|fp(16|32|64)|u?int(8|16|32|64)"
)
_LAYERS = {"conv", "conv_transpose", "linear"}
_RECURRENT = {"gru", "lstm", "rnn_relu", "rnn_tanh"}
# What stands in for a dtype that Core ML has no multi-array of.
_CARRIED_AS = {"uint8": "int32", "int8": "int32", "int16": "int32", "int64": "int32"}


def emit_coreml(
    model: nn.Module | QuantizedModel,
    precision: str,
    example: tuple[Tensor, ...],
    signature: Signature,
    folder: Path,
    sparsity: float,
) -> Emitted:
    """Write `model-<precision>.mlpackage`; see `skerry.converter.emit.emit`. Its batch is 1."""
    if precision == "int8":
        if not isinstance(model, QuantizedModel):
            raise InputError("int8 needs a quantized model", where="emit", remedy="calibrate first")
        module: nn.Module = model.graph(fold=True)
    else:
        module = float_module(model, precision, example)
    row = one_row(example)
    output_specs_fit(module, row, signature)
    names = _own_names(signature)
    inputs = tuple(_carried(spec, names[spec.name]) for spec in signature.inputs)
    outputs = tuple(_carried(spec, names[spec.name]) for spec in signature.outputs)
    carried = tuple(x.to(getattr(torch, spec.dtype)) for x, spec in zip(row, inputs, strict=True))
    package = prepared_path(folder, precision, ".mlpackage")
    if package.exists():
        shutil.rmtree(package)
    raised = isinstance(model, QuantizedModel) and bool(model.scheme.raised)
    computed = _computed_in(precision, halves=raised)
    converted = _convert(module, carried, inputs, outputs, precision, computed)
    if precision in COMPRESSED:
        converted = compressed_weights(converted, precision, sparsity)
    _check_names(converted, inputs, outputs)
    write_package(converted, package)
    return Emitted(
        path=package, format="coreml", precision=precision, inputs=inputs, outputs=outputs
    )


def _convert(
    module: nn.Module,
    row: tuple[Tensor, ...],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    precision: str,
    computed_in: Any,
) -> Any:
    for name in ("coremltools", "coremltools.libmodelpackage"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        import coremltools
        from coremltools.converters.mil import mil

        types = {"float32": mil.types.fp32, "int32": mil.types.int32}
        try:
            program = _traced(module, row)
            return coremltools.convert(
                program,
                inputs=[
                    coremltools.TensorType(name=spec.name, shape=x.shape, dtype=types[spec.dtype])
                    for spec, x in zip(inputs, row, strict=True)
                ],
                outputs=[
                    coremltools.TensorType(name=spec.name, dtype=types[spec.dtype])
                    for spec in outputs
                ],
                minimum_deployment_target=coremltools.target.iOS18
                if precision in NEWEST
                else coremltools.target.iOS17,
                compute_precision=computed_in,
                skip_model_load=True,
            )
        except Exception as error:
            raise UnsupportedError(
                f"the Core ML converter cannot lower the model: {str(error).splitlines()[0]}",
                where="coreml",
                remedy="leave coreml out of the targets, or replace the operator that it names",
            ) from error


def _computed_in(precision: str, *, halves: bool) -> Any:
    """What floating point the program computes in, as coremltools takes it.

    Args:
        halves: layers whose weights float16 holds exactly are computed in float16, the rest not.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        import coremltools
    if precision == "fp16":
        return coremltools.precision.FLOAT16
    if halves:
        return coremltools.transform.FP16ComputePrecision(op_selector=_has_halves)
    return coremltools.precision.FLOAT32


def _has_halves(operation: Any) -> bool:
    """Whether a MIL operation is a layer that was raised to fp16."""
    weight = getattr(operation, "weight", None)
    value = None if weight is None else weight.val
    if operation.op_type not in _LAYERS or value is None or value.dtype != np.float32:
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(value.astype(np.float16).astype(np.float32), value))


def _traced(module: nn.Module, row: tuple[Tensor, ...]) -> Any:
    """The program in a form coremltools reads: it takes recurrent layers as TorchScript only."""
    program = torch.export.export(module, row)
    if not any(getattr(n.target, "_opname", "") in _RECURRENT for n in program.graph.nodes):
        return program.run_decompositions({})
    with torch.no_grad():
        fixed = program.module(check_guards=False)
        return torch.jit.trace(fixed, row, check_trace=False)  # type: ignore[no-untyped-call]


def _own_names(signature: Signature) -> dict[str, str]:
    """The package's name of each tensor: the caller's, with a `_` behind a reserved word."""
    taken = {*signature.input_names, *signature.output_names}
    names = {name: name for name in taken}
    for name in sorted(filter(_RESERVED.fullmatch, taken)):
        own = f"{name}_"
        while own in taken:
            own += "_"
        taken.add(own)
        names[name] = own
    return names


def _check_names(
    converted: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Raise UnsupportedError where coremltools took another name than the one it was given."""
    found = converted.get_spec().description
    for wanted, given in ((inputs, found.input), (outputs, found.output)):
        names = {one.name for one in given}
        for spec in wanted:
            if spec.name not in names:
                raise UnsupportedError(
                    f"Core ML does not take {spec.name!r} as the name of a tensor",
                    where="coreml",
                    remedy="give the tensor another name in the recipe",
                )


def _carried(spec: TensorSpec, name: str) -> TensorSpec:
    return TensorSpec(name, _CARRIED_AS.get(spec.dtype, spec.dtype), (1, *spec.shape[1:]))
