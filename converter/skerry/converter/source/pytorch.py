"""A factory in the user's file: of a PyTorch module, with weights that need no pickle, or of a
fitted scikit-learn estimator.

The safetensors that skerry writes of a pruned model carry, in their header, which channels were
removed; the factory's module is pruned alike before they are loaded into it.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from skerry.converter.source.estimator import Estimator, is_estimator
from skerry.converter.source.finite import check_finite
from skerry.converter.structure import STRUCTURE_KEY, Structure, apply_structure
from skerry.converter.userfile import UserFunction
from skerry.devices.errors import InputError

__all__ = ["PyTorchSource", "load_weights"]

_NAMES_SHOWN = 3


class PyTorchSource:
    """`ModelSource` of a factory and, usually, a file of weights.

    Args:
        factory: called without arguments, gives an `nn.Module`, or an estimator that is fitted.
        weights: safetensors, or a state dict for `torch.load(weights_only=True)`; of a module.
        shapes: one row of each input as the model takes it.
    """

    def __init__(
        self, factory: UserFunction, weights: Path | None, shapes: tuple[tuple[int, ...], ...]
    ) -> None:
        self._factory, self._weights, self._shapes = factory, weights, shapes
        self._estimator: Estimator | None = None

    @property
    def kind(self) -> str:
        return "pytorch" if self._estimator is None else "scikit-learn"

    @property
    def name(self) -> str:
        return str(self._factory)

    def materials(self) -> Mapping[str, Path]:
        files = {self._factory.file.name: self._factory.file}
        if self._weights is not None:
            files[self._weights.name] = self._weights
        return files

    def module(self) -> nn.Module:
        if self._estimator is not None:  # nothing changes it, and fitting takes its time
            return self._estimator
        model = self._factory.call()
        if is_estimator(model):
            self._estimator = self._fitted(model)
            return self._estimator
        if not isinstance(model, nn.Module):
            raise InputError(
                f"gave {type(model).__name__}",
                where=self._factory,
                remedy="return a torch.nn.Module, or a fitted scikit-learn estimator",
            )
        if self._weights is not None:
            load_weights(model, self._weights, self._shapes)
        check_finite(model, self._weights or self._factory)
        return model.eval()

    def _fitted(self, estimator: object) -> Estimator:
        if self._weights is not None:
            raise InputError(
                "an estimator has its own parameters",
                where="source.weights",
                remedy="leave this key out",
            )
        return Estimator(estimator, self._factory)


def load_weights(model: nn.Module, path: Path, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Load the weights at `path` into `model`, pruning it first where they say so.

    Raises:
        InputError: the file is damaged, or its tensors are not those of the model.
    """
    state, structure = _read(path)
    if structure is not None:
        apply_structure(model, structure, shapes, where=path)
    own = model.state_dict()
    # Batch normalisation counted its batches only from torch 0.4.1 on; nothing depends on it.
    counters = {name for name in own if name.endswith(".num_batches_tracked")}
    missing = sorted(own.keys() - state.keys() - counters)
    extra = sorted(state.keys() - own.keys())
    if missing or extra:
        words = [f"lacks {_some(missing)}"] if missing else []
        words += [f"has besides {_some(extra)}"] if extra else []
        raise InputError(
            f"not the weights of this model: the file {' and '.join(words)}",
            where=path,
            remedy="give the weights that were saved from this factory's module",
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{name} has the shape {list(tensor.shape)}, the model's {list(own[name].shape)}",
                where=path,
                remedy="give the weights that were saved from this factory's module",
            )
    model.load_state_dict({**{name: own[name] for name in counters}, **state})


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read(path: Path) -> tuple[dict[str, Tensor], Structure | None]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"cannot be read as a state dict: {str(error).splitlines()[0]}",
            where=path,
            remedy="save it with torch.save(model.state_dict(), path), or as safetensors",
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError("holds no state dict", where=path, remedy="save model.state_dict()")
    if found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found, None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Structure | None]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            text = (file.metadata() or {}).get(STRUCTURE_KEY)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"cannot be read as safetensors: {error}", where=path, remedy="save the weights again"
        ) from error
    try:
        return state, None if text is None else Structure.decode(text)
    except (InputError, json.JSONDecodeError) as error:
        raise InputError(f"its pruned structure is damaged: {error}", where=path) from error
