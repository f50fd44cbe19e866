"""ONNX's own backend node tests: the measure of the importer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import AttributeProto, GraphProto, TensorProto

from skerry.converter.onnx_import import OPERATORS, import_onnx
from skerry.converter.onnx_import.dtypes import from_numpy, to_numpy

_COMMON = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Einsum",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "InstanceNormalization",
    "LSTM",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "LogSoftmax",
    "MatMul",
    "MaxPool",
    "Mul",
    "OneHot",
    "PRelu",
    "Pad",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RNN",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Tanh",
    "Tile",
    "TopK",
    "Transpose",
    "Unsqueeze",
    "Where",
]


def _operators(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _operators(attribute.g)


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _given(value: Any) -> Any:
    if isinstance(value, list):
        return [_given(item) for item in value]
    return None if value is None else from_numpy(np.asarray(_array(value)))


def _compare(found: Any, wanted: Any, case: Any) -> None:
    if isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            _compare(one, other, case)
        return
    got, want = to_numpy(found), np.asarray(_array(wanted))
    if want.dtype.name in ("int4", "int2", "uint4", "uint2"):
        want = want.astype(want.dtype.name.rstrip("42") + "8")
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if got.dtype.kind != "c":
        got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol)


def _passes(case: Any) -> bool:
    module = import_onnx(case.model)
    for inputs, outputs in case.data_sets:
        with torch.no_grad():
            found = module(*map(_given, inputs))
        _compare(list(found) if isinstance(found, tuple) else [found], list(outputs), case)
    return True


@pytest.mark.slow
def test_backend_node_score(capsys: pytest.CaptureFixture[str]) -> None:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    known = {*OPERATORS, "Constant"}
    cases = [case for case in cases if set(_operators(case.model.graph)) <= known]
    torch.manual_seed(0)
    failed = []
    for case in cases:
        try:
            _passes(case)
        except Exception:
            failed.append(case.name)
    score = 1 - len(failed) / len(cases)
    with capsys.disabled():
        print(
            f"\nONNX backend node tests: {len(cases) - len(failed)} of {len(cases)} "
            f"({score:.1%}) for {len(OPERATORS)} operators"
        )
    assert len(cases) > 1500
    assert score >= 0.95, failed


def test_the_list_of_operators() -> None:
    assert len(OPERATORS) >= 110
    assert set(_COMMON) <= set(OPERATORS)
    newest = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert set(OPERATORS) <= newest
