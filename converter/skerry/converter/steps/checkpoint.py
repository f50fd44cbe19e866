"""The state of a training in progress, written after every epoch and read again after a kill.

One safetensors file: the model's tensors, the optimizer's, the loss's own, and in the header what
is no tensor. It is replaced as a whole, so there is always a good one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from skerry.converter.structure import Structure
from skerry.devices.files import write_atomically

__all__ = ["Progress", "Trained", "read_checkpoint", "write_checkpoint"]

_HEADER = "skerry.training.v1"


class Progress(msgspec.Struct, frozen=True):
    """How far a training is.

    Attributes:
        epoch: how many are done.
        loss, held_out: mean loss of each.
        best: the epoch whose held-out loss is lowest, counted from 1; 0 where none are held out.
    """

    epoch: int = 0
    loss: tuple[float, ...] = ()
    held_out: tuple[float, ...] = ()
    best: int = 0


class _Header(msgspec.Struct, frozen=True):
    run: str
    progress: Progress
    structure: Structure


@dataclass(frozen=True)
class Trained:
    """What changes while training runs.

    Attributes:
        model, objective: their tensors are trained.
        optimizer: over both.
        generator: of every random choice.
        best: the model's tensors at the best epoch; empty where none are held out.
    """

    model: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    best: dict[str, Tensor]


def write_checkpoint(path: Path, run: str, progress: Progress, trained: Trained) -> None:
    """Replace the checkpoint.

    Args:
        run: what the training depends on; another's checkpoint is not taken up.
    """
    tensors = {
        **_named("model", trained.model.state_dict()),
        **_named("objective", trained.objective.state_dict()),
        **_named("best", trained.best),
        "generator": trained.generator.get_state(),
        "random": torch.get_rng_state(),
    }
    for number, state in trained.optimizer.state_dict()["state"].items():
        values = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        tensors |= _named(f"optimizer.{number}", values)
    header = _Header(run, progress, Structure.of(trained.model))
    text = msgspec.json.encode(header, order="deterministic").decode()
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(kept, {_HEADER: text}))


def read_checkpoint(path: Path, run: str, trained: Trained) -> Progress:
    """Take up where a training was left.

    Returns:
        How far it is; at the beginning, with nothing changed, where there is no checkpoint of this
        very run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER, "")
            header = msgspec.json.decode(text, type=_Header)
            if header.run != run or header.structure != Structure.of(trained.model):
                return Progress()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError, ValueError, msgspec.DecodeError):
        return Progress()
    trained.model.load_state_dict(_below("model", tensors))
    trained.objective.load_state_dict(_below("objective", tensors))
    trained.best.update(_below("best", tensors))
    trained.generator.set_state(tensors["generator"])
    torch.set_rng_state(tensors["random"])
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer", tensors).items():
        number, _, key = name.partition(".")
        states.setdefault(int(number), {})[key] = tensor
    groups = trained.optimizer.state_dict()["param_groups"]
    trained.optimizer.load_state_dict({"state": states, "param_groups": groups})
    return header.progress


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
