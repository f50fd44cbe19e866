"""Nodes with constant weights as PyTorch's own layers, which train, prune and quantize as such."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from skerry.converter.onnx_import.call import Node
from skerry.converter.onnx_import.dtypes import from_numpy

__all__ = ["AnyBatchNorm", "Chosen", "Padded", "Recurrent", "choose_layer"]

_Arrays = Mapping[str, NDArray[Any]]
_Uses = Mapping[str, list[tuple[Node, int]]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A layer for a node.

    Attributes:
        name: what to call it, from its weight's name.
        layer: the layer, weights loaded.
        node: the node, its inputs reduced to what the layer takes.
        absorbed: later nodes that the layer does the work of.
    """

    name: str
    layer: nn.Module
    node: Node
    absorbed: tuple[Node, ...] = ()


class AnyBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over axis 1 of an input of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - PyTorch's own name
        if input.dim() < 2:
            raise ValueError(f"an input of {input.dim()} axes has no channels")


class Padded(nn.Module):
    """A layer behind zero padding that its own symmetric one cannot say.

    Args:
        pads: before and after each axis from the last, as `F.pad` takes them.
    """

    def __init__(self, layer: nn.Module, pads: list[int]) -> None:
        super().__init__()
        self.layer = layer
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        """Pad and apply."""
        found: Tensor = self.layer(F.pad(x, self.pads))
        return found


class Recurrent(nn.Module):
    """An `nn.LSTM`, `nn.GRU` or `nn.RNN` with ONNX's order of axes.

    ONNX's output is [steps, directions, batch, hidden] (layout 0), PyTorch's [steps, batch,
    directions * hidden].
    """

    def __init__(self, layer: nn.RNNBase, layout: int) -> None:
        super().__init__()
        self.layer = layer
        self.layout = layout

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """`x`, and the initial states where the node gives them."""
        if self.layout:
            x = x.transpose(0, 1)
            state = tuple(part.transpose(0, 1) for part in state)
        first: Any = (state if len(state) == 2 else state[0]) if state else None
        y, last = self.layer(x, first)
        ends = last if isinstance(last, tuple) else (last,)
        directions = 2 if self.layer.bidirectional else 1
        y = y.reshape(*y.shape[:2], directions, -1).transpose(1, 2)
        if not self.layout:
            return (y, *ends)
        return (y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends))


def choose_layer(node: Node, arrays: _Arrays, uses: _Uses) -> Chosen | None:
    """A layer for `node`, or None where its weights are computed, shared, or of a form that
    PyTorch's layers lack."""
    maker = _MAKERS.get(node.kind)
    return None if maker is None else maker(node, arrays, uses)


def _own(node: Node, position: int, arrays: _Arrays, uses: _Uses) -> Tensor | None:
    """The constant at an input that no other node uses."""
    if position >= len(node.inputs) or node.inputs[position] not in arrays:
        return None
    name = node.inputs[position]
    if len(uses[name]) != 1 or arrays[name].dtype.kind != "f":
        return None
    return from_numpy(arrays[name])


def _name(node: Node, position: int = 1) -> str:
    name = node.inputs[position]
    for ending in (".weight", "/weight", "_weight", ".weight_ih_l0"):
        name = name.removesuffix(ending)
    return name


def _load(layer: nn.Module, **values: Tensor | None) -> None:
    """Put tensors in place of a layer's parameters and buffers."""
    for name, value in values.items():
        if value is None:
            continue
        old = getattr(layer, name)
        setattr(layer, name, nn.Parameter(value) if isinstance(old, nn.Parameter) else value)


def _conv(node: Node, arrays: _Arrays, uses: _Uses) -> Chosen | None:
    weight, bias = _own(node, 1, arrays, uses), _own(node, 2, arrays, uses)
    rank = 0 if weight is None else weight.ndim - 2
    if weight is None or rank not in (1, 2, 3) or (len(node.inputs) > 2 and bias is None):
        return None
    if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pads = node.attributes.get("pads", [0] * 2 * rank)
    if min(pads) < 0:
        return None
    groups = node.attributes.get("group", 1)
    symmetric = pads[:rank] == pads[rank:]
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(node.attributes.get("strides", [1] * rank)),
        padding=tuple(pads[:rank]) if symmetric else 0,
        dilation=tuple(node.attributes.get("dilations", [1] * rank)),
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    _load(layer, weight=weight, bias=bias)
    if not symmetric:
        flat = [
            amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[rank + axis])
        ]
        layer = Padded(layer, flat)
    return Chosen(_name(node), layer, replace(node, inputs=node.inputs[:1]))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    _load(layer, weight=weight, bias=bias)
    return layer


def _gemm(node: Node, arrays: _Arrays, uses: _Uses) -> Chosen | None:
    weight, bias = _own(node, 1, arrays, uses), _own(node, 2, arrays, uses)
    plain = all(node.attributes.get(key, 1.0) == 1.0 for key in ("alpha", "beta"))
    if weight is None or weight.ndim != 2 or not plain or node.attributes.get("transA", 0):
        return None
    weight = weight if node.attributes.get("transB", 0) else weight.T.contiguous()
    if len(node.inputs) > 2:
        if bias is None or bias.numel() != weight.shape[0]:
            return None
        bias = bias.reshape(-1)
    return Chosen(_name(node), _linear(weight, bias), replace(node, inputs=node.inputs[:1]))


def _matmul(node: Node, arrays: _Arrays, uses: _Uses) -> Chosen | None:
    """A product with a constant matrix, and the bias that is added to it."""
    weight = _own(node, 1, arrays, uses)
    if weight is None or weight.ndim != 2:
        return None
    weight = weight.T.contiguous()
    chosen = Chosen(_name(node), _linear(weight, None), replace(node, inputs=node.inputs[:1]))
    users = uses.get(node.outputs[0], [])
    if len(users) != 1 or users[0][0].kind != "Add":
        return chosen
    add, position = users[0]
    bias = _own(add, 1 - position, arrays, uses) if position >= 0 else None
    if bias is None or bias.ndim != 1 or bias.numel() != weight.shape[0]:
        return chosen
    joined = replace(node, inputs=node.inputs[:1], outputs=add.outputs)
    return Chosen(_name(node), _linear(weight, bias), joined, (add,))


def _batch_norm(node: Node, arrays: _Arrays, uses: _Uses) -> Chosen | None:
    parts = [_own(node, position, arrays, uses) for position in range(1, 5)]
    if any(part is None for part in parts) or node.attributes.get("training_mode", 0):
        return None
    gamma, beta, mean, variance = (part for part in parts if part is not None)
    layer = AnyBatchNorm(
        gamma.numel(),
        eps=node.attributes.get("epsilon", 1e-5),
        momentum=1 - node.attributes.get("momentum", 0.9),
    )
    _load(layer, weight=gamma, bias=beta, running_mean=mean, running_var=variance)
    return Chosen(_name(node), layer, replace(node, inputs=node.inputs[:1]))


# Where ONNX's gates stand in PyTorch's order.
_GATES = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}
_RNN_LAYERS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
_DEFAULTS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}


def _recurrent(node: Node, arrays: _Arrays, uses: _Uses) -> Chosen | None:
    attributes, kind = node.attributes, node.kind
    w, r, b = (_own(node, position, arrays, uses) for position in (1, 2, 3))
    direction = attributes.get("direction", "forward")
    if w is None or r is None or direction == "reverse" or "clip" in attributes:
        return None
    if (len(node.inputs) > 3 and node.inputs[3] and b is None) or any(
        node.inputs[4:5] + node.inputs[7:]
    ):
        return None
    if kind == "GRU" and not attributes.get("linear_before_reset", 0):
        return None
    both = direction == "bidirectional"
    if attributes.get("activations", _DEFAULTS[kind] * (1 + both)) != _DEFAULTS[kind] * (1 + both):
        return None
    states = node.inputs[5:7] if kind == "LSTM" else node.inputs[5:6]
    if (states and not all(states)) or (kind == "LSTM" and len(states) == 1):
        return None
    if attributes.get("input_forget", 0):
        return None
    layer = _RNN_LAYERS[kind](w.shape[2], r.shape[2], bias=b is not None, bidirectional=both)
    for index, ending in enumerate(("", "_reverse")[: 1 + both]):
        values = {"weight_ih": w[index], "weight_hh": r[index]}
        if b is not None:
            values["bias_ih"], values["bias_hh"] = b[index].chunk(2)
        for name, value in values.items():
            gates = value.chunk(len(_GATES[kind]))
            ordered = torch.cat([gates[at] for at in _GATES[kind]])
            getattr(layer, f"{name}_l0{ending}").data.copy_(ordered)
    wrapped = Recurrent(layer, attributes.get("layout", 0))
    return Chosen(_name(node), wrapped, replace(node, inputs=(node.inputs[0], *states)))


_MAKERS: dict[str, Callable[[Node, _Arrays, _Uses], Chosen | None]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "RNN": _recurrent,
}
