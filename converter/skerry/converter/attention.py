"""Multi-head attention with its projections as layers of their own, so that heads can go.

`nn.MultiheadAttention` takes its inner width from that of its inputs and cannot lose a head. Here
the heads are as many as the projections are wide.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from skerry.devices.errors import InputError

__all__ = ["OpenAttention", "open_attention"]


class OpenAttention(nn.Module):
    """The same function of the same weights as an `nn.MultiheadAttention`, which stays as it is.

    Args:
        whole: without `bias_k`, `bias_v` and `add_zero_attn`.

    Raises:
        InputError: it has one of those.
    """

    in_proj_weight = in_proj_bias = None  # what torch's encoder layers look for before a shortcut
    _qkv_same_embed_dim = False

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        if whole.bias_k is not None or whole.bias_v is not None or whole.add_zero_attn:
            raise InputError("an attention with bias_k, bias_v or add_zero_attn is not opened")
        self.embed_dim = whole.embed_dim
        self.head_dim: int = whole.head_dim
        self.batch_first, self.dropout = whole.batch_first, whole.dropout
        # What is not there is None, which torch's annotations do not say.
        packed: Tensor | None = whole.in_proj_weight
        apart = (whole.q_proj_weight, whole.k_proj_weight, whole.v_proj_weight)
        weights = apart if packed is None else packed.chunk(3)
        bias: Tensor | None = whole.in_proj_bias
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        layers = [_linear(*one) for one in zip(weights, biases, strict=True)]
        self.query, self.key, self.value = layers
        self.out_proj = _linear(whole.out_proj.weight, whole.out_proj.bias)
        self.train(whole.training)

    @property
    def num_heads(self) -> int:
        """How many there are."""
        return self.query.out_features // self.head_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002 - a hint beside the mask, which torch asks for
    ) -> tuple[Tensor, Tensor | None]:
        """As of `nn.MultiheadAttention`, for inputs [n, length, channels], or [length, n, channels]
        where `batch_first` is not set."""
        if not self.batch_first:
            query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        q = self._heads(self.query(query))
        k = self._heads(self.key(key))
        v = self._heads(self.value(value))
        mask = _added(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            scores = scores if mask is None else scores + mask
            weights = functional.dropout(scores.softmax(-1), dropout)
            seen = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            seen = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        given = self.out_proj(seen.transpose(1, 2).flatten(2))
        return given if self.batch_first else given.transpose(0, 1), weights

    def _heads(self, x: Tensor) -> Tensor:
        """[n, length, channels] → [n, heads, length, head_dim]."""
        return x.reshape(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)


def open_attention(model: nn.Module, name: str) -> None:
    """Put an `OpenAttention` in the place of the attention called `name`.

    Raises:
        InputError: there is none of that name, or it cannot be opened.
    """
    whole = dict(model.named_modules()).get(name)
    if not name or not isinstance(whole, nn.MultiheadAttention):
        raise InputError(f"{name!r} is no nn.MultiheadAttention of the model")
    model.set_submodule(name, OpenAttention(whole))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _added(attn_mask: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
    """The sum of both masks, as what is added to the scores; true means "do not look"."""
    found = None
    if attn_mask is not None:
        if attn_mask.ndim == 3:  # [n · heads, …]
            attn_mask = attn_mask.reshape(query.shape[0], -1, *attn_mask.shape[1:])
        found = _float(attn_mask, query)
    if padding is not None:
        extra = _float(padding[:, None, None, :], query)
        found = extra if found is None else found + extra
    return found


def _float(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
