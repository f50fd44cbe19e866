"""ONNX: export the graph, then lower it until every operator runs as an integer kernel."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn

from skerry.converter.emit.artifact import Emitted, Signature
from skerry.converter.emit.inputs import float_module, output_specs_fit, prepared_path
from skerry.converter.emit.lower import (
    absorb_activations,
    block_weights,
    dynamic_layers,
    float_layers,
    half_weights,
    integer_weights,
    split_activations,
    strip_metadata,
    unsigned_activations,
)
from skerry.converter.quantize.model import QuantizedModel
from skerry.devices.errors import InputError, UnsupportedError
from skerry.devices.files import write_atomically
from skerry.devices.targets import Target
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["emit_onnx", "lower"]

_RECURRENT = {"GRU", "LSTM", "RNN"}
_LARGEST_FOLDED = 1 << 28  # elements
_PARSER_FAULT = "AST constructor recursion depth mismatch"
_OPSET = 21  # DequantizeLinear by blocks, and 4-bit integers


def emit_onnx(
    model: nn.Module | QuantizedModel,
    precision: str,
    example: tuple[Tensor, ...],
    signature: Signature,
    folder: Path,
    target: Target,
) -> Emitted:
    """Write `model-<precision>.onnx`; see `skerry.converter.emit.emit`."""
    if precision == "int8":
        if not isinstance(model, QuantizedModel):
            raise InputError("int8 needs a quantized model", where="emit", remedy="calibrate first")
        module: nn.Module = model.graph(fold=True)
    else:
        module = float_module(model, precision, example, _limit(precision, target))
    rows = tuple(x if len(x) > 1 else torch.cat([x, x]) for x in example)
    output_specs_fit(module, rows, signature)
    exported = _export(module, rows, signature)
    lower(exported, precision, target)
    path = prepared_path(folder, precision, ".onnx")
    proto = ir.to_proto(exported)
    write_atomically(path, proto.SerializeToString(deterministic=True))
    return Emitted(
        path=path,
        format="onnx",
        precision=precision,
        inputs=tuple(_free_batch(spec) for spec in signature.inputs),
        outputs=tuple(_free_batch(spec) for spec in signature.outputs),
    )


def _limit(precision: str, target: Target) -> int:
    """The largest weight. MatMulInteger multiplies as the target does; others in floating point."""
    return target.weight_limit if precision == "int8-dynamic" else Target().weight_limit


def lower(model: ir.Model, precision: str, target: Target) -> None:
    """Rewrite an exported model in place for its precision; every step is exact but fp16's own."""
    graph = model.graph
    if precision != "int8" and any(node.op_type in _RECURRENT for node in graph):
        # The exporter reorders gates in the graph, and leaves large weights for the engine to fold.
        fold_constants(model, input_size_limit=_LARGEST_FOLDED, output_size_limit=_LARGEST_FOLDED)
    if precision == "int8":
        absorb_activations.apply(graph, absorb_activations.find(graph))
        split_activations.apply(graph, split_activations.find(graph))
        if target.activations == "uint8":
            unsigned_activations.apply(graph, unsigned_activations.find(graph))
        float_layers.apply(graph, float_layers.find(graph))
        half_weights.apply(graph, half_weights.find_exact(graph))
    if precision == "fp16":
        half_weights.apply(graph, half_weights.find(graph))
    if precision == "int4-weights":
        block_weights.apply(graph, block_weights.find(graph))
    if precision == "int8-dynamic":
        dynamic_layers.apply(graph, dynamic_layers.find(graph), _limit(precision, target))
    if precision in ("int8-weights", "int8-dynamic", "int4-weights"):
        limit = _limit(precision, target)
        integer_weights.apply(graph, integer_weights.find(graph), limit)
    _remove_unused_initializers(graph)
    _forget_shapes(graph)
    strip_metadata.apply(model)


def _export(module: nn.Module, rows: tuple[Tensor, ...], signature: Signature) -> ir.Model:
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)

    def export() -> Any:
        return torch.onnx.export(
            module,
            rows,
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(signature.input_names),
            output_names=list(signature.output_names),
            dynamic_shapes=tuple({0: batch} for _ in rows),
            verbose=False,
        )

    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            try:
                program = export()
            except Exception as error:
                # Of CPython's own parser, seen once under load. The same export then works.
                if _PARSER_FAULT not in str(error):
                    raise
                program = export()
    except Exception as error:
        raise UnsupportedError(
            f"the ONNX exporter cannot lower the model: {str(error).splitlines()[0]}",
            where="onnx",
            remedy="leave onnx out of the targets, or replace the operator that it names",
        ) from error
    if program is None:
        raise UnsupportedError("the ONNX exporter gave nothing", where="onnx")
    exported: ir.Model = program.model
    return exported


def _remove_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _forget_shapes(graph: ir.Graph) -> None:
    """Leave the types of intermediate values to the engine, which infers them anyway."""
    for node in graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.type, output.shape = None, None


def _free_batch(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, (-1, *spec.shape[1:]))
