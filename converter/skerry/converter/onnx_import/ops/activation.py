"""Activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]

_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875


def _celu(call: Call) -> Tensor:
    x, alpha = call.tensor(0), call.number("alpha", 1.0)
    return x.clamp(min=0) + (alpha * torch.expm1(x / alpha)).clamp(max=0)


def _gelu(call: Call) -> Tensor:
    return F.gelu(call.tensor(0), approximate=call.text("approximate", "none"))


def _hard_sigmoid(call: Call) -> Tensor:
    x, alpha, beta = call.tensor(0), call.number("alpha", 0.2), call.number("beta", 0.5)
    return (x * alpha + beta).clamp(0, 1)


def _hardmax(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.integer("axis", -1)
    best = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1)


def _prelu(call: Call) -> Tensor:
    x, slope = call.tensor(0), call.tensor(1)
    return torch.where(x < 0, x * slope, x)


def _selu(call: Call) -> Tensor:
    x = call.tensor(0)
    alpha, gamma = call.number("alpha", _SELU_ALPHA), call.number("gamma", _SELU_GAMMA)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def _shrink(call: Call) -> Tensor:
    x, bias, limit = call.tensor(0), call.number("bias", 0.0), call.number("lambd", 0.5)
    zero = torch.zeros_like(x)
    found = torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero))
    return found.to(x.dtype)


def _softplus(call: Call) -> Tensor:
    x = call.tensor(0)
    return torch.logaddexp(x, torch.zeros_like(x))


def _swish(call: Call) -> Tensor:
    x = call.tensor(0)
    return x * torch.sigmoid(call.number("alpha", 1.0) * x)


def _thresholded_relu(call: Call) -> Tensor:
    x = call.tensor(0)
    return torch.where(x > call.number("alpha", 1.0), x, torch.zeros_like(x))


TABLE: dict[str, Kernel] = {
    "Celu": _celu,
    "Elu": lambda call: F.elu(call.tensor(0), call.number("alpha", 1.0)),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda call: F.hardswish(call.tensor(0)),
    "Hardmax": _hardmax,
    "LeakyRelu": lambda call: F.leaky_relu(call.tensor(0), call.number("alpha", 0.01)),
    "LogSoftmax": lambda call: F.log_softmax(call.tensor(0), call.integer("axis", -1)),
    "Mish": lambda call: F.mish(call.tensor(0)),
    "PRelu": _prelu,
    "Relu": lambda call: F.relu(call.tensor(0)),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": lambda call: torch.sigmoid(call.tensor(0)),
    "Softmax": lambda call: F.softmax(call.tensor(0), call.integer("axis", -1)),
    "Softplus": _softplus,
    "Softsign": lambda call: F.softsign(call.tensor(0)),
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
}
