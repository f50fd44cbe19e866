"""Recurrent layers, step by step. `x` is [steps, batch, features]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide

__all__ = ["TABLE"]

_Activation = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, _Activation] = {
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "linear": lambda x: x,
    "relu": F.relu,
    "scaled_tanh": lambda x: 1.7159 * torch.tanh(x * 2 / 3),
    "sigmoid": torch.sigmoid,
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "tanh": torch.tanh,
}


def _activation(call: Call, key: str, default: str) -> _Activation:
    name = call.text(key, default)
    if name not in _ACTIVATIONS:
        raise call.unsupported(f"no activation {name!r}")
    return _ACTIVATIONS[name]


def _optional(call: Call, key: str) -> Tensor | None:
    value = call.get(key)
    return None if value is None else wide(value)


def _order(call: Call, steps: int) -> range:
    return (
        range(steps - 1, -1, -1) if call.text("direction", "forward") == "reverse" else range(steps)
    )


def _sequence(hidden: dict[int, Tensor], last: Tensor, call: Call) -> Tensor:
    """The first output: every step in the order of time, or the last alone."""
    if call.flag("output_sequence"):
        return torch.stack([hidden[step] for step in sorted(hidden)])
    return last.unsqueeze(0)


class _LstmCell:
    """One direction of an LSTM. Gates are in the order input, forget, output, cell."""

    def __init__(self, call: Call, suffix: str) -> None:
        self.weight_ih = wide(call[f"weight_ih{suffix}"])
        self.weight_hh = wide(call[f"weight_hh{suffix}"])
        self.bias = _optional(call, f"bias{suffix}")
        self.peephole = _optional(call, f"peephole{suffix}")
        self.gate = _activation(call, "recurrent_activation", "sigmoid")
        self.cell = _activation(call, "cell_activation", "tanh")
        self.out = _activation(call, "activation", "tanh")
        self.clip = call.number("clip") if "clip" in call else None

    def run(
        self, x: Tensor, h: Tensor, c: Tensor, order: range
    ) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        ahead = F.linear(x, self.weight_ih, self.bias)
        hidden = {}
        for step in order:
            h, c = self._step(ahead[step] + F.linear(h, self.weight_hh), c)
            hidden[step] = h
        return hidden, h, c

    def _step(self, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, z = gates.chunk(4, -1)
        if self.peephole is not None:
            to_i, to_f, to_o = self.peephole.chunk(3, -1)
            i, f = i + to_i * c, f + to_f * c
        z = self.cell(z)
        if self.clip is not None:
            z = z.clamp(-self.clip, self.clip)
        c = self.gate(f) * c + self.gate(i) * z
        if self.peephole is not None:
            o = o + to_o * c
        return self.gate(o) * self.out(c), c


def _lstm(call: Call) -> tuple[Tensor, ...]:
    x = call["x"]
    h, c = wide(call["initial_h"]), wide(call["initial_c"])
    steps = range(x.shape[0])
    if call.text("direction", "forward") != "bidirectional":
        found = _LstmCell(call, "").run(wide(x), h, c, _order(call, x.shape[0]))
        hidden, h, c = found
        return tuple(y.to(x.dtype) for y in (_sequence(hidden, h, call), h, c))
    ends = []
    sequences = []
    for suffix, order, part in (("", steps, 0), ("_back", steps[::-1], 1)):
        first, second = h.chunk(2, -1)[part], c.chunk(2, -1)[part]
        hidden, last, memory = _LstmCell(call, suffix).run(wide(x), first, second, order)
        sequences.append(_sequence(hidden, last, call))
        ends.append((last, memory))
    joined = [torch.cat(list(pair), -1) for pair in (sequences, *zip(*ends, strict=True))]
    return tuple(y.to(x.dtype) for y in joined)


def _gru(call: Call) -> tuple[Tensor, ...]:
    """Gates are in the order reset, output, update."""
    x, h = call["x"], wide(call["initial_h"])
    gate = _activation(call, "recurrent_activation", "sigmoid")
    activation = _activation(call, "activation", "tanh")
    weight_hh, bias = wide(call["weight_hh"]), _optional(call, "bias")
    extra = _optional(call, "input_bias")
    reset_after = call.flag("reset_after")
    into = [None] * 3 if bias is None else bias.chunk(3)
    ahead = F.linear(wide(x), wide(call["weight_ih"]), extra)
    to_reset, to_output, to_update = weight_hh.chunk(3)
    hidden = {}
    for step in _order(call, x.shape[0]):
        from_reset, from_output, from_update = ahead[step].chunk(3, -1)
        reset = gate(from_reset + F.linear(h, to_reset, into[0]))
        update = gate(from_update + F.linear(h, to_update, into[2]))
        if reset_after:
            middle = reset * F.linear(h, to_output, into[1])
        else:
            middle = F.linear(reset * h, to_output, into[1])
        candidate = activation(from_output + middle)
        h = (1 - update) * candidate + update * h
        hidden[step] = h
    return _sequence(hidden, h, call).to(x.dtype), h.to(x.dtype)


def _rnn(call: Call) -> tuple[Tensor, ...]:
    x, h = call["x"], wide(call["initial_h"])
    activation = _activation(call, "activation", "tanh")
    ahead = F.linear(wide(x), wide(call["weight_ih"]), _optional(call, "bias"))
    weight_hh = wide(call["weight_hh"])
    hidden = {}
    for step in _order(call, x.shape[0]):
        h = activation(ahead[step] + F.linear(h, weight_hh))
        hidden[step] = h
    return _sequence(hidden, h, call).to(x.dtype), h.to(x.dtype)


TABLE: dict[str, Kernel] = {"gru": _gru, "lstm": _lstm, "rnn": _rnn}
