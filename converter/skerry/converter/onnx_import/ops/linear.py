"""Products of matrices, exact and quantized."""

from __future__ import annotations

import torch
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]


def _gemm(call: Call) -> Tensor:
    a, b, c = call.tensor(0), call.tensor(1), call.maybe(2)
    a = a.T if call.integer("transA", 0) else a
    b = b.T if call.integer("transB", 0) else b
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    y = a @ b
    y = y if alpha == 1.0 else alpha * y
    if c is None:
        return y
    return y + (c if beta == 1.0 else beta * c)


def _matmul(call: Call) -> Tensor:
    x, y = call.tensor(0), call.tensor(1)
    if x.dtype in (torch.uint32, torch.uint64):
        return (x.to(torch.int64) @ y.to(torch.int64)).to(x.dtype)
    return x @ y


def _along_rows(zero: Tensor, x: Tensor) -> Tensor:
    return zero.unsqueeze(-1) if zero.ndim == 1 and x.ndim > 1 and zero.numel() > 1 else zero


def _matmul_integer(call: Call) -> Tensor:
    a, b = call.tensor(0).to(torch.int32), call.tensor(1).to(torch.int32)
    if call.has(2):
        a = a - _along_rows(call.tensor(2), a).to(torch.int32)
    if call.has(3):
        b = b - call.tensor(3).to(torch.int32)
    return a @ b


def _einsum(call: Call) -> Tensor:
    equation = call.text("equation", "").replace(" ", "")
    return torch.einsum(equation, *call.tensors())


TABLE: dict[str, Kernel] = {
    "Det": lambda call: torch.linalg.det(call.tensor(0)),
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul_integer,
}
