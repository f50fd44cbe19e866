"""Recurrent layers that PyTorch's own cannot say, step by step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]

_Function = Callable[[Tensor], Tensor]


def _function(name: str, alpha: float | None, beta: float | None, call: Call) -> _Function:
    """An activation by name, with its parameters or their defaults."""

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    functions: dict[str, _Function] = {
        "affine": lambda x: given(alpha, 1.0) * x + given(beta, 0.0),
        "elu": lambda x: F.elu(x, given(alpha, 1.0)),
        "hardsigmoid": lambda x: (given(alpha, 0.2) * x + given(beta, 0.5)).clamp(0, 1),
        "leakyrelu": lambda x: F.leaky_relu(x, given(alpha, 0.01)),
        "relu": F.relu,
        "scaledtanh": lambda x: given(alpha, 1.0) * torch.tanh(given(beta, 1.0) * x),
        "sigmoid": torch.sigmoid,
        "softplus": F.softplus,
        "softsign": F.softsign,
        "tanh": torch.tanh,
        "thresholdedrelu": lambda x: torch.where(x > given(alpha, 1.0), x, torch.zeros_like(x)),
    }
    if name.lower() not in functions:
        raise call.unsupported(f"the activation {name!r}")
    return functions[name.lower()]


def _at(values: list[float], index: int) -> float | None:
    return values[index] if index < len(values) else None


class _Cell:
    """What the three kinds share: one direction's weights and activations."""

    def __init__(self, call: Call, direction: int, kinds: list[str]) -> None:
        names = call.texts("activations") or kinds * 2
        alphas, betas = call.numbers("activation_alpha", []), call.numbers("activation_beta", [])
        first = direction * len(kinds)
        self.functions = [
            _function(names[i], _at(alphas, i), _at(betas, i), call)
            for i in range(first, first + len(kinds))
        ]
        self.weight, self.recurrent = call.tensor(1)[direction], call.tensor(2)[direction]
        both = call.tensor(3)[direction] if call.has(3) else None
        self.into: Tensor | None = None
        self.back: Tensor | None = None
        if both is not None:
            self.into, self.back = both.chunk(2)
        self.clip = call.number("clip") if "clip" in call.node.attributes else None
        self.hidden = call.tensor(2).shape[-1]

    def clipped(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        raise NotImplementedError


class _Rnn(_Cell):
    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        total = F.linear(x, self.weight, self.into) + F.linear(h, self.recurrent, self.back)
        return (self.functions[0](self.clipped(total)),)


class _Gru(_Cell):
    """Gates are in the order update, reset, hidden."""

    def __init__(self, call: Call, direction: int, kinds: list[str]) -> None:
        super().__init__(call, direction, kinds)
        self.before = bool(call.integer("linear_before_reset", 0))

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        gate, squash = self.functions
        from_x = F.linear(x, self.weight, self.into).chunk(3, -1)
        weights = self.recurrent.chunk(3)
        biases = [None] * 3 if self.back is None else list(self.back.chunk(3))
        update = gate(self.clipped(from_x[0] + F.linear(h, weights[0], biases[0])))
        reset = gate(self.clipped(from_x[1] + F.linear(h, weights[1], biases[1])))
        if self.before:
            inner = reset * F.linear(h, weights[2], biases[2])
        else:
            inner = F.linear(reset * h, weights[2], biases[2])
        candidate = squash(self.clipped(from_x[2] + inner))
        return ((1 - update) * candidate + update * h,)


class _Lstm(_Cell):
    """Gates are in the order input, output, forget, cell."""

    def __init__(self, call: Call, direction: int, kinds: list[str]) -> None:
        super().__init__(call, direction, kinds)
        self.peepholes = call.tensor(7)[direction].chunk(3) if call.has(7) else None
        self.coupled = bool(call.integer("input_forget", 0))

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        gate, squash, last = self.functions
        total = F.linear(x, self.weight, self.into) + F.linear(h, self.recurrent, self.back)
        i, o, f, z = total.chunk(4, -1)
        if self.peepholes is not None:
            i, f = i + self.peepholes[0] * c, f + self.peepholes[2] * c
        i, z = gate(self.clipped(i)), squash(self.clipped(z))
        f = 1 - i if self.coupled else gate(self.clipped(f))
        c = f * c + i * z
        if self.peepholes is not None:
            o = o + self.peepholes[1] * c
        return gate(self.clipped(o)) * last(c), c


def _one_direction(
    cell: _Cell, x: Tensor, state: tuple[Tensor, ...], backward: bool, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`x` [steps, batch, features] through a cell; rows past their length keep their state."""
    steps = range(x.shape[0])
    found: dict[int, Tensor] = {}
    for step in reversed(steps) if backward else steps:
        new = cell.step(x[step], state)
        if lengths is None:
            state, found[step] = new, new[0]
        else:
            alive = (step < lengths).unsqueeze(-1)
            state = tuple(torch.where(alive, a, b) for a, b in zip(new, state, strict=True))
            found[step] = torch.where(alive, new[0], torch.zeros_like(new[0]))
    return torch.stack([found[step] for step in steps]), state


def _recurrent(kind: type[_Cell], activations: list[str], states: int) -> Kernel:
    def kernel(call: Call) -> tuple[Tensor, ...]:
        x, layout = call.tensor(0), call.integer("layout", 0)
        lengths = call.maybe(4)
        first = [call.maybe(5 + index) for index in range(states)]
        if layout:
            x = x.transpose(0, 1)
            first = [None if state is None else state.transpose(0, 1) for state in first]
        direction = call.text("direction", "forward")
        backwards = {"forward": [False], "reverse": [True]}.get(direction, [False, True])
        outputs, ends = [], []
        for index, backward in enumerate(backwards):
            cell = kind(call, index, activations)
            zero = x.new_zeros([x.shape[1], cell.hidden])
            state = tuple(zero if given is None else given[index] for given in first)
            y, last = _one_direction(cell, x, state, backward, lengths)
            outputs.append(y)
            ends.append(last)
        y = torch.stack(outputs, 1)
        finals = [torch.stack(list(parts)) for parts in zip(*ends, strict=True)]
        if layout:
            return (y.permute(2, 0, 1, 3), *(final.transpose(0, 1) for final in finals))
        return (y, *finals)

    return kernel


TABLE: dict[str, Kernel] = {
    "GRU": _recurrent(_Gru, ["Sigmoid", "Tanh"], 1),
    "LSTM": _recurrent(_Lstm, ["Sigmoid", "Tanh", "Tanh"], 2),
    "RNN": _recurrent(_Rnn, ["Tanh"], 1),
}
