"""Store linear layers' weights as int4 by blocks along the input axis.

ONNX Runtime turns a blocked DequantizeLinear before a MatMul into its 4-bit kernel, which wants
the weight as [input, output]; so a Gemm becomes a MatMul and an Add.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from skerry.converter.emit.lower.constants import with_constant
from skerry.converter.emit.lower.weights import weights
from skerry.converter.quantize.weights import BLOCK

__all__ = ["BlockStore", "apply", "find"]

_LIMIT = 7


@dataclass(frozen=True, slots=True)
class BlockStore:
    """Store this linear layer's weight by blocks.

    Attributes:
        node: a MatMul, or a Gemm without scaling.
        value: its weight.
        transposed: the weight is [output, input].
    """

    node: ir.Node
    value: ir.Value
    transposed: bool


def find(graph: ir.Graph) -> tuple[BlockStore, ...]:
    """Every linear layer to store so. Changes nothing."""
    found = []
    for weight in weights(graph):
        node = weight.node
        if node.op_type not in ("Gemm", "MatMul") or len(weight.value.shape or ()) != 2:
            continue
        transposed = bool(node.attributes.get_int("transB", 0))
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if not plain or node.attributes.get_int("transA", 0) == 1:
            continue
        tensor = weight.value.const_value
        if tensor is not None and tensor.numpy().shape[1 if transposed else 0] % BLOCK == 0:
            found.append(BlockStore(node, weight.value, transposed))
    return tuple(found)


def apply(graph: ir.Graph, instructions: tuple[BlockStore, ...]) -> None:
    """Carry the instructions out."""
    for instruction in instructions:
        node, value = instruction.node, instruction.value
        if value.const_value is None:
            continue
        matrix = value.const_value.numpy()
        stored, scale = _blocks(matrix.T if instruction.transposed else matrix)
        name = value.name or ""
        codes = with_constant(graph, f"{name}_int4", stored.astype(ml_dtypes.int4))
        scales = with_constant(graph, f"{name}_scale", scale)
        attributes = {"axis": 0, "block_size": BLOCK}
        decode = ir.node("DequantizeLinear", [codes, scales], attributes, name=f"{name}_decode")
        decode.outputs[0].name = f"{name}_float"
        graph.insert_before(node, decode)
        if node.op_type == "MatMul":
            node.replace_input_with(1, decode.outputs[0])
        else:
            _split(graph, node, decode.outputs[0])


def _blocks(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 [input, output] within -7..7, and scales [input / block, output]."""
    parts = matrix.reshape(-1, BLOCK, matrix.shape[1])
    scale = np.abs(parts).max(axis=1, keepdims=True) / np.float32(_LIMIT)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    stored = np.clip(np.round(parts / scale), -_LIMIT, _LIMIT).astype(np.int8)
    return stored.reshape(matrix.shape), np.ascontiguousarray(scale[:, 0])


def _split(graph: ir.Graph, gemm: ir.Node, weight: ir.Value) -> None:
    product = ir.node("MatMul", [gemm.inputs[0], weight], name=f"{gemm.name}_product")
    product.outputs[0].name = f"{gemm.outputs[0].name}_product"
    graph.insert_before(gemm, product)
    if len(gemm.inputs) < 3 or gemm.inputs[2] is None:
        last = product
    else:
        last = ir.node("Add", [product.outputs[0], gemm.inputs[2]], name=f"{gemm.name}_sum")
        graph.insert_before(gemm, last)
    old, new = gemm.outputs[0], last.outputs[0]
    name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, new.type, new.shape = name, old.type, old.shape
    graph.remove(gemm, safe=True)
