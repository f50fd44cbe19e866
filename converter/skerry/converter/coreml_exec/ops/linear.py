"""Products of matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide

__all__ = ["TABLE"]


def _linear(call: Call) -> Tensor:
    x, bias = call["x"], call.get("bias")
    y = F.linear(wide(x), wide(call["weight"]), None if bias is None else wide(bias))
    return y.to(x.dtype)


def _matmul(call: Call) -> Tensor:
    x, y = call["x"], call["y"]
    a = wide(x).mT if call.flag("transpose_x") else wide(x)
    b = wide(y).mT if call.flag("transpose_y") else wide(y)
    return torch.matmul(a, b).to(x.dtype)


def _einsum(call: Call) -> Tensor:
    values = call.all("values")
    return torch.einsum(call.text("equation"), *map(wide, values)).to(values[0].dtype)


def _attention(call: Call) -> Tensor:
    query, mask = call["query"], call.get("attn_mask")
    if mask is not None and mask.is_floating_point():
        mask = wide(mask)
    y = F.scaled_dot_product_attention(
        wide(query), wide(call["key"]), wide(call["value"]), attn_mask=mask
    )
    return y.to(query.dtype)


TABLE: dict[str, Kernel] = {
    "einsum": _einsum,
    "linear": _linear,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
}
