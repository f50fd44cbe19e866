"""Attention and what belongs to it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel
from skerry.converter.onnx_import.dtypes import element_type

__all__ = ["TABLE"]


def _heads(x: Tensor, count: int | None, call: Call) -> Tensor:
    """[batch, steps, heads * size] as [batch, heads, steps, size]."""
    if x.ndim == 4:
        return x
    if count is None:
        raise call.unsupported("an input of three axes without a number of heads")
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _frontier(call: Call, queries: int, past: int) -> Tensor:
    """How many keys precede the first query: one number, or one a row of the batch."""
    if call.has(6) and not call.has(4):
        return (call.tensor(6).reshape(-1, 1, 1, 1) - queries).long()
    return torch.tensor(past)


def _bias(call: Call, queries: int, keys: int, past: int, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores: masks, causality, windows and padding, joined."""
    found: Tensor | None = None

    def hide(allowed: Tensor) -> None:
        nonlocal found
        part = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, float("-inf"))
        found = part if found is None else found + part

    if call.has(3):
        mask = call.tensor(3)
        missing = keys - mask.shape[-1]
        if missing > 0:
            value: Any = False if mask.dtype == torch.bool else float("-inf")
            mask = F.pad(mask, [0, missing], value=value)
        if mask.dtype == torch.bool:
            hide(mask)
        else:
            found = mask
    place = torch.arange(queries).unsqueeze(1) + _frontier(call, queries, past)
    distance = place - torch.arange(keys)
    if call.integer("is_causal", 0):
        hide(distance >= 0)
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    if left >= 0:
        hide(distance <= left)
    if right >= 0:
        hide(distance >= -right)
    if call.has(6):
        hide(torch.arange(keys) < call.tensor(6).reshape(-1, 1, 1, 1))
    return found


def _softmax(scores: Tensor, call: Call) -> Tensor:
    """Softmax over keys; a query that may attend none gets zeros."""
    wanted = call.integer("softmax_precision", 0)
    wide = scores.to(element_type(wanted, call.node.where).torch) if wanted else scores
    blind = (wide == float("-inf")).all(-1, keepdim=True)
    return torch.softmax(wide, -1).masked_fill(blind, 0).to(scores.dtype)


def _attention(call: Call) -> tuple[Tensor, ...]:
    q_heads = call.integer("q_num_heads", 0) or None
    kv_heads = call.integer("kv_num_heads", 0) or None
    flat = call.tensor(0).ndim == 3
    q = _heads(call.tensor(0), q_heads, call)
    k, v = (_heads(call.tensor(index), kv_heads, call) for index in (1, 2))
    past = 0
    if call.has(4):
        past = call.tensor(4).shape[2]
        k, v = torch.cat([call.tensor(4), k], 2), torch.cat([call.tensor(5), v], 2)
    present = (k, v)
    if k.shape[1] != q.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    scale = call.number("scale", q.shape[-1] ** -0.5) if q.shape[-1] else 1.0
    bias = _bias(call, q.shape[2], k.shape[2], past, q.dtype)
    softcap = call.number("softcap", 0.0)
    plain = softcap == 0 and not call.integer("softmax_precision", 0)
    if len(call.node.outputs) < 4 and plain and q.dtype.itemsize > 2:
        y = _fused(q, k, v, bias, scale)
        return (y.transpose(1, 2).flatten(2) if flat else y, *present)
    raw = (q * scale**0.5) @ (k * scale**0.5).mT
    capped = torch.tanh(raw / softcap) * softcap if softcap > 0 else raw
    biased = capped if bias is None else capped + bias
    weights = _softmax(biased, call)
    y = weights @ v
    shown = (raw, capped, biased, weights)[call.integer("qk_matmul_output_mode", 0)]
    return (y.transpose(1, 2).flatten(2) if flat else y, *present, shown)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    if bias is None:
        return y
    return y.masked_fill((bias == float("-inf")).all(-1, keepdim=True), 0)


def _rotary(call: Call) -> Tensor:
    x, cos, sin = (call.tensor(index) for index in range(3))
    flat = x.ndim == 3
    data = x.reshape(*x.shape[:2], call.integer("num_heads"), -1) if flat else x.transpose(1, 2)
    size = call.integer("rotary_embedding_dim", 0) or data.shape[-1]
    if call.has(3):
        place = call.tensor(3).long()
        cos, sin = cos[place], sin[place]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    turned, rest = data[..., :size], data[..., size:]
    if call.integer("interleaved", 0):
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if call.integer("interleaved", 0):
        turned = torch.stack([real, imaginary], -1).flatten(-2)
    else:
        turned = torch.cat([real, imaginary], -1)
    y = torch.cat([turned, rest], -1)
    return y.reshape(x.shape) if flat else y.transpose(1, 2)


def _swiglu(call: Call) -> Tensor:
    a, b = call.tensor(0), call.tensor(1)
    return a * torch.sigmoid(call.number("alpha", 1.0) * a) * b


TABLE: dict[str, Kernel] = {
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    "SwiGLU": _swiglu,
}
