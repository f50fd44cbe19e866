"""The model as callers see it: what the recipe says of inputs and outputs is part of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from skerry.converter.recipe import Input, OutputTensor
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.base import Arrays

__all__ = [
    "Deployable",
    "FrontEnd",
    "Preprocess",
    "as_tensors",
    "as_tuple",
    "example_inputs",
    "run",
]


class Preprocess(nn.Module):
    """One input: cast, resized, channels moved, `(x · scale - mean) / std` as one multiply-add."""

    gain: Tensor
    offset: Tensor

    def __init__(self, spec: Input) -> None:
        super().__init__()
        axes = len(spec.shape)
        std = np.array(spec.std or (1.0,), np.float64)
        mean = np.array(spec.mean or (0.0,), np.float64)
        gain, offset = spec.factor / std, -mean / std
        self._identity = bool((gain == 1).all() and (offset == 0).all())
        # Indices stay integers: an embedding looks them up.
        self._cast = spec.dtype == "uint8" or (spec.dtype != "float32" and not self._identity)
        first = spec.channels == "first"
        # Scaling wants the channels first; what does not scale moves them once, if at all.
        self._size = None if spec.resize_from is None else tuple(spec.picture_size)
        self._to_first = spec.channels_last and (first or self._size is not None)
        self._to_last = not first and (self._to_first or not spec.channels_last)
        wide = (1, -1, *[1] * (axes - 1)) if first else (1, *[1] * (axes - 1), -1)
        self.register_buffer("gain", _constant(gain, wide), persistent=False)
        self.register_buffer("offset", _constant(offset, wide), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, …] as callers pass it → [N, …] as the model takes it."""
        if self._cast:
            x = x.to(torch.float32)
        if self._to_first:
            x = x.movedim(-1, 1)
        if self._size is not None:
            x = functional.interpolate(x, self._size, mode="bilinear", align_corners=False)
        if self._to_last:
            x = x.movedim(1, -1)
        return x if self._identity else x * self.gain + self.offset


def _constant(values: np.ndarray[tuple[int], np.dtype[np.float64]], shape: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(tuple(shape))


class Deployable(nn.Module):
    """What is exported: pre-processing, the model, post-processing.

    Args:
        model: takes one tensor per input.
        inputs: what the recipe says of each.
        outputs: what it says of each output; fewer, or none, leave the rest as they are.
    """

    def __init__(
        self, model: nn.Module, inputs: Mapping[str, Input], outputs: Mapping[str, OutputTensor]
    ) -> None:
        super().__init__()
        self.front = nn.ModuleList(Preprocess(spec) for spec in inputs.values())
        self.model = model
        self._outputs = tuple(outputs.values())

    def forward(
        self,
        first: Tensor,
        second: Tensor | None = None,
        third: Tensor | None = None,
        fourth: Tensor | None = None,
        fifth: Tensor | None = None,
        sixth: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """The inputs as callers pass them, in the recipe's order → the outputs, then the largest
        of those that the recipe wants so.

        They are named one by one because torch.export cannot give `*inputs` free axes.
        """
        given = (first, second, third, fourth, fifth, sixth)
        found = as_tuple(self.model(*self.prepare(*[x for x in given if x is not None])))
        specs = (*self._outputs, *[OutputTensor()] * len(found))
        shown = [
            torch.softmax(one, -1) if spec.softmax else one
            for one, spec in zip(found, specs, strict=False)
        ]
        for one, spec in list(zip(shown, specs, strict=False)):
            if spec.top:
                best, places = torch.topk(one, spec.top, -1)
                shown += [best, places.to(torch.int32)]  # the widest that every format has
        return shown[0] if len(shown) == 1 else tuple(shown)

    def prepare(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs as the model takes them."""
        return tuple(front(x) for front, x in zip(self.front, inputs, strict=True))

    def front_end(self) -> FrontEnd:
        """`prepare` as a module without the model."""
        return FrontEnd(self.front)


class FrontEnd(nn.Module):
    """What is done to inputs before the model sees them."""

    def __init__(self, front: nn.ModuleList) -> None:
        super().__init__()
        self.front = front

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs as callers pass them → as the model takes them."""
        return tuple(front(x) for front, x in zip(self.front, inputs, strict=True))


def as_tuple(found: object) -> tuple[Tensor, ...]:
    """What a model gave, as a tuple of tensors."""
    if isinstance(found, Tensor):
        return (found,)
    if isinstance(found, dict):
        found = tuple(found.values())
    if isinstance(found, tuple | list) and found and all(isinstance(one, Tensor) for one in found):
        return tuple(found)
    raise TypeError(f"the model gave {type(found).__name__}, not tensors")


def as_tensors(inputs: Arrays) -> tuple[Tensor, ...]:
    """Arrays by name as tensors in the same order."""
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values())


def example_inputs(inputs: Mapping[str, Input], rows: int = 2) -> tuple[Tensor, ...]:
    """Zeros in the shape and dtype that callers pass."""
    return tuple(
        torch.zeros(rows, *spec.caller_shape, dtype=getattr(torch, spec.dtype))
        for spec in inputs.values()
    )


@torch.no_grad()
def run(
    model: Callable[..., object],
    batches: Sequence[Arrays],
    outputs: Sequence[TensorSpec],
    where: torch.device | None = None,
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Every output over all batches, by name, rows in order; `where` is the model's device."""
    given = ([one.to(where) for one in as_tensors(batch)] for batch in batches)
    found = [tuple(one.cpu() for one in as_tuple(model(*inputs))) for inputs in given]
    return {
        spec.name: np.concatenate([one[i].numpy() for one in found])
        for i, spec in enumerate(outputs)
    }
