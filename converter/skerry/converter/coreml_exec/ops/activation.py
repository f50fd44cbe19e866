"""Activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide

__all__ = ["TABLE"]


def _gelu(call: Call) -> Tensor:
    x = call["x"]
    mode = call.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return (wide(x) * torch.sigmoid(1.702 * wide(x))).to(x.dtype)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def _clamped_relu(call: Call) -> Tensor:
    x, limit = call["x"], call.number("beta")
    return torch.where(x >= 0, x, x * call["alpha"]).clamp(max=limit)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """A vector laid along axis 1 of `x`."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


def _prelu(call: Call) -> Tensor:
    x = call["x"]
    return torch.where(x > 0, x, x * _per_channel(call["alpha"], x))


def _softplus_parametric(call: Call) -> Tensor:
    x = call["x"]
    alpha, beta = (_per_channel(wide(call[key]), x) for key in ("alpha", "beta"))
    return (alpha * F.softplus(wide(x) * beta)).to(x.dtype)


def _softmax(call: Call) -> Tensor:
    x = call["x"]
    return torch.softmax(wide(x), call.integer("axis", -1)).to(x.dtype)


def _hard_sigmoid(call: Call) -> Tensor:
    return (call["x"] * call["alpha"] + call["beta"]).clamp(0, 1)


def _thresholded_relu(call: Call) -> Tensor:
    x = call["x"]
    return torch.where(x >= call["alpha"], x, torch.zeros_like(x))


TABLE: dict[str, Kernel] = {
    "clamped_relu": _clamped_relu,
    "elu": lambda call: F.elu(call["x"], call.number("alpha")),
    "gelu": _gelu,
    "leaky_relu": lambda call: F.leaky_relu(call["x"], call.number("alpha")),
    "linear_activation": lambda call: call["x"] * call["alpha"] + call["beta"],
    "prelu": _prelu,
    "relu": lambda call: F.relu(call["x"]),
    "relu6": lambda call: F.relu6(call["x"]),
    "scaled_tanh": lambda call: call["alpha"] * torch.tanh(call["x"] * call["beta"]),
    "sigmoid": lambda call: torch.sigmoid(call["x"]),
    "sigmoid_hard": _hard_sigmoid,
    "silu": lambda call: F.silu(call["x"]),
    "softmax": _softmax,
    "softplus": lambda call: F.softplus(wide(call["x"])).to(call["x"].dtype),
    "softplus_parametric": _softplus_parametric,
    "softsign": lambda call: F.softsign(call["x"]),
    "thresholded_relu": _thresholded_relu,
}
