"""Which channels of which layers belong to each head of an attention, found by asking the model.

Layers and attentions are watched while the model runs once, each cut off from what is before it.
Gradients from one head's queries, keys and values back to the layers before, and from the layers
behind back to that head, are zero but for the channels that are its own, however the code reshapes,
splits or permutes on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Head", "Side", "heads_of"]

Side = tuple[str, bool]  # a layer by name, and whether its outputs are meant, or its inputs
Head = dict[Side, set[int]]  # the channels that are its own

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_ATTEND = functional.scaled_dot_product_attention
_SOFTMAX = (torch.softmax, Tensor.softmax, functional.softmax)


def heads_of(model: nn.Module, example: Sequence[Tensor]) -> list[Head]:
    """The heads of every attention that lies between two layers.

    An attention is a `scaled_dot_product_attention`, or a softmax over the last of four axes, with
    heads along the second axis. Heads that share a channel (the queries of one key) are one.

    Args:
        model: in eval mode.
        example: inputs as it takes them.
    """
    with torch.enable_grad():
        watch = _Watch(model)
        try:
            with watch:
                model(*example)
        finally:
            watch.close()
        found = [head for one in watch.attentions for head in watch.heads(one)]
    return _joined([head for head in found if len({outputs for _, outputs in head}) == 2])


def _back(value: Tensor, leaves: Sequence[Tensor], asked: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient by each leaf; None where `value` does not depend on it."""
    again = asked.requires_grad
    return torch.autograd.grad(
        value, leaves, asked, retain_graph=True, create_graph=again, allow_unused=True
    )


def _joined(heads: Sequence[Head]) -> list[Head]:
    """Those that share a channel become one."""
    found: list[Head] = []
    for head in heads:
        apart = []
        for one in found:
            if any(one.get(side, set()) & channels for side, channels in head.items()):
                head = {side: one.get(side, set()) | head.get(side, set()) for side in one | head}
            else:
                apart.append(one)
        found = [*apart, head]
    return found


@dataclass(frozen=True)
class _Seen:
    """A tensor that a layer gave or took.

    Attributes:
        axis: of its channels.
    """

    layer: str
    axis: int
    value: Tensor

    def channels(self, change: Tensor) -> set[int]:
        """Those along which `change`, of the shape of the value, is not zero everywhere."""
        rows = change.movedim(self.axis, 0).flatten(1)
        return set((rows != 0).any(1).nonzero().flatten().tolist())


@dataclass(frozen=True)
class _Attention:
    """What goes into an attention, and its result; heads are the second axis of each."""

    inputs: tuple[Tensor, ...]
    result: Tensor


class _Watch(TorchFunctionMode):
    """Sees layers and attentions at work.

    Attributes:
        attentions: in the order in which they ran.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.attentions: list[_Attention] = []
        self._given: list[_Seen] = []
        self._taken: list[_Seen] = []
        self._noise = torch.Generator().manual_seed(0)
        self._hooks = []
        for name, layer in model.named_modules():
            if isinstance(layer, _LAYERS):
                axis = -1 if isinstance(layer, nn.Linear) else 1
                self._hooks.append(layer.register_forward_pre_hook(self._taking(name, axis)))
                self._hooks.append(layer.register_forward_hook(self._giving(name, axis)))

    def close(self) -> None:
        """Stop watching layers."""
        for hook in self._hooks:
            hook.remove()

    def heads(self, attention: _Attention) -> list[Head]:
        """Of each head, its channels by layer and side."""
        count = attention.result.shape[1]
        heads: list[Head] = [{} for _ in range(count)]
        for number, head in enumerate(heads):
            for one in attention.inputs:
                mask = torch.zeros_like(one)
                mask[:, number * one.shape[1] // count] = 1
                self._before(one, mask, head)
        for reader in self._taken:
            self._behind(attention.result, reader, heads)
        return heads

    def _before(self, value: Tensor, mask: Tensor, head: Head) -> None:
        """Add the channels of layers that `value` comes from where the mask is not zero."""
        if not value.requires_grad or not self._given:
            return
        leaves = [one.value for one in self._given]
        asked = mask * self._random(mask)
        for one, change in zip(self._given, _back(value, leaves, asked), strict=True):
            if change is not None and (channels := one.channels(change)):
                head.setdefault((one.layer, True), set()).update(channels)

    def _behind(self, result: Tensor, reader: _Seen, heads: Sequence[Head]) -> None:
        """Add the channels of `reader` that the heads of `result` reach, and of layers that reach
        the same (such as the values, where only the weights are a softmax)."""
        if not reader.value.requires_grad:
            return
        # The derivative along a direction is that of the gradient by what it was asked with.
        asked = torch.zeros_like(reader.value, requires_grad=True)
        (back,) = _back(reader.value, [result], asked)
        if back is None:
            return
        for number, head in enumerate(heads):
            direction = torch.zeros_like(result)
            direction[:, number] = self._random(direction[:, number])
            (along,) = _back(back, [asked], direction)
            if along is None or not (channels := reader.channels(along)):
                continue
            head.setdefault((reader.layer, False), set()).update(channels)
            mask = torch.zeros_like(reader.value)
            mask.movedim(reader.axis, 0)[sorted(channels)] = 1
            self._before(reader.value, mask, head)

    def _random(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._noise, dtype=like.dtype)

    def _taking(self, name: str, axis: int) -> Callable[[nn.Module, Any], None]:
        def take(_: nn.Module, inputs: Any) -> None:
            self._taken.append(_Seen(name, axis, inputs[0]))

        return take

    def _giving(self, name: str, axis: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def give(_: nn.Module, __: Any, given: Tensor) -> Tensor:
            leaf = given.detach().requires_grad_()
            self._given.append(_Seen(name, axis, leaf))
            return leaf.clone()  # which may be changed in place

        return give

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        inputs: tuple[Any, ...] = ()
        if func is _ATTEND:
            rest = [named[one] for one in ("query", "key", "value") if one in named]
            inputs = (*args[:3], *rest)
        elif func in _SOFTMAX and (args[1] if len(args) > 1 else named.get("dim")) in {-1, 3}:
            inputs = args[:1] or (named["input"],)
        if not inputs or result.ndim != 4:
            return result
        leaf = result.detach().requires_grad_()
        self.attentions.append(_Attention(inputs, leaf))
        return leaf.clone()
