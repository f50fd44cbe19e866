"""Losses: ONNX's training operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]


def _nll(scores: Tensor, call: Call) -> Tensor:
    target, weight = call.tensor(1).long(), call.maybe(2)
    ignored = call.integer("ignore_index", -(1 << 62))
    return F.nll_loss(
        scores, target, weight, ignore_index=ignored, reduction=call.text("reduction", "mean")
    )


def _cross_entropy(call: Call) -> tuple[Tensor, Tensor]:
    scores = torch.log_softmax(call.tensor(0), 1)
    return _nll(scores, call), scores


TABLE: dict[str, Kernel] = {
    "NegativeLogLikelihoodLoss": lambda call: _nll(call.tensor(0), call),
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
