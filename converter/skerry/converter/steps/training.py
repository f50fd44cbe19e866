"""The training loop that every step shares: warm-up and cosine, the same each time.

On a GPU it runs in bfloat16 where that keeps the result (torch.autocast), with the rows and their
augmentation there too. After every epoch the state is saved, so that an interruption costs one
epoch at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor, nn

from skerry.converter.graph import as_tuple
from skerry.converter.steps.augment import augment
from skerry.converter.steps.base import Batch, TrainingSet, Workbench
from skerry.converter.steps.checkpoint import (
    Progress,
    Trained,
    read_checkpoint,
    write_checkpoint,
)
from skerry.converter.steps.config import Augment, Qat, Training
from skerry.converter.steps.objective import Objective
from skerry.converter.steps.zeros import keep_zeros
from skerry.converter.structure import save_model
from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically

__all__ = ["History", "fit"]

_WARM_SHARE = 0.1
_MOMENTUM = 0.9
_MATRIX_AXES = 2  # parameters of fewer axes (biases, norms) do not decay
_HELD_OUT_ROWS = 512


@dataclass(frozen=True)
class History:
    """Mean loss of each epoch; `held_out` is empty where no rows were."""

    loss: tuple[float, ...] = ()
    held_out: tuple[float, ...] = ()

    def __add__(self, other: History) -> History:
        return History(self.loss + other.loss, self.held_out + other.held_out)


def fit(
    model: nn.Module,
    config: Training,
    bench: Workbench,
    objective: Objective,
    part: str = "",
    epochs: int | None = None,
) -> History:
    """Train `model` in place.

    Args:
        objective: what to minimise.
        part: of the step, where it trains more than once.
        epochs: instead of the configuration's.

    Returns:
        The losses. The model is left in eval mode on the CPU.

    Raises:
        InputError: the loss is no longer finite. The model is as after the last good epoch, and
            its weights are kept beside the checkpoint.
    """
    run = _Run(model, config, bench, objective, part, config.epochs if epochs is None else epochs)
    try:
        return run.to_the_end()
    finally:
        objective.close()
        for one in (model, objective):
            one.to(torch.device("cpu"))
            if isinstance(one, nn.Module):
                one.eval()


class _Run:
    """One training."""

    def __init__(
        self,
        model: nn.Module,
        config: Training,
        bench: Workbench,
        objective: Objective,
        part: str,
        epochs: int,
    ) -> None:
        torch.manual_seed(bench.seed)
        self._config, self._bench, self._epochs = config, bench, epochs
        model.to(bench.device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own
        objective.to(bench.device)
        self._rows = bench.training.to(bench.device)
        self._mixed = bench.mixed and not isinstance(config, Qat)  # integers need all of float32
        generator = torch.Generator().manual_seed(bench.seed)
        self._shown, self._held = _split(len(self._rows), config, generator)
        optimizer = _optimizer(model, objective, config)
        self._trained = Trained(model, objective, optimizer, generator, {})
        self._zeros = keep_zeros(model)
        self._step, self._steps = 0, epochs * math.ceil(len(self._shown) / config.batch)
        name = msgspec.json.encode([config, bench.seed, part, epochs], order="deterministic")
        self._name = f"{name.decode()} {bench.device.type} {self._mixed}"
        folder = bench.checkpoints
        self._path = None if folder is None else folder / f"training{part}.safetensors"

    def to_the_end(self) -> History:
        progress = Progress()
        if self._path is not None:
            progress = read_checkpoint(self._path, self._name, self._trained)
        self._step = progress.epoch * (self._steps // max(1, self._epochs))
        while progress.epoch < self._epochs and not self._tired(progress):
            progress = self._one_more(progress)
            if self._path is not None:
                write_checkpoint(self._path, self._name, progress, self._trained)
            self._tell(progress)
        if self._trained.best:
            self._trained.model.load_state_dict(self._trained.best)
        return History(progress.loss, progress.held_out)

    def _tired(self, progress: Progress) -> bool:
        patience = self._config.patience
        return patience > 0 and progress.epoch - progress.best >= patience

    def _one_more(self, before: Progress) -> Progress:
        good = {k: v.detach().clone() for k, v in self._trained.model.state_dict().items()}
        mean = self._epoch()
        if not math.isfinite(mean):
            self._trained.model.load_state_dict(good)
            raise self._diverged(before)
        held = (self._held_out_loss(),) if len(self._held) else ()
        best = before.best
        if held and held[0] < min(before.held_out, default=math.inf):
            best = before.epoch + 1
            state = self._trained.model.state_dict()
            self._trained.best.update({k: v.detach().clone() for k, v in state.items()})
        return Progress(before.epoch + 1, (*before.loss, mean), (*before.held_out, *held), best)

    def _epoch(self) -> float:
        model, generator = self._trained.model, self._trained.generator
        model.train()
        self._trained.objective.train()
        total = torch.zeros((), dtype=torch.float64, device=self._bench.device)
        count = 0
        order = self._shown[torch.randperm(len(self._shown), generator=generator)]
        for rows in torch.split(order, self._config.batch):
            rate = self._config.learning_rate * _rate(self._step, self._steps)
            self._step += 1
            if len(rows) == 1 and len(self._shown) > 1:
                continue  # batch normalisation has no variance over one row
            for group in self._trained.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            batch = _batch(self._rows, rows, self._config.augment, generator)
            total += self._descend(batch) * len(rows)
            count += len(rows)
        model.eval()
        return float(total) / max(1, count)

    def _descend(self, batch: Batch) -> Tensor:
        optimizer = self._trained.optimizer
        optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        self._zeros()
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        with self._precision():
            outputs = as_tuple(self._trained.model(*batch.inputs))
            loss: Tensor = self._trained.objective(outputs, batch)
        return loss

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        self._trained.objective.eval()
        losses = [
            float(self._loss(_batch(self._rows, rows, Augment(), None))) * len(rows)
            for rows in torch.split(self._held, _HELD_OUT_ROWS)
        ]
        return sum(losses) / len(self._held)

    def _precision(self) -> AbstractContextManager[object]:
        kind = self._bench.device.type
        return torch.autocast(kind, torch.bfloat16) if self._mixed else nullcontext()

    def _diverged(self, before: Progress) -> InputError:
        kept = ""
        if self._path is not None and before.epoch:
            path = self._path.with_name("last-good.safetensors")
            write_atomically(path, save_model(self._trained.model))
            kept = f"; the weights after epoch {before.epoch} are in {path}"
        return InputError(
            f"training diverged in epoch {before.epoch + 1}: the loss is not finite{kept}",
            remedy="lower the step's learning_rate",
        )

    def _tell(self, progress: Progress) -> None:
        held = f", held out {progress.held_out[-1]:.3f}" if progress.held_out else ""
        self._bench.advance(
            f"epoch {progress.epoch}/{self._epochs}, loss {progress.loss[-1]:.3f}{held}"
        )


def _split(count: int, config: Training, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers of the rows that are shown, and of those held out."""
    if not config.patience:
        return torch.arange(count), torch.arange(0)
    order = torch.randperm(count, generator=generator)
    held = max(1, round(count * config.held_out))
    if held >= count:
        raise InputError(
            f"no rows are left to train on: {count} in all", remedy="lower the step's held_out"
        )
    return order[held:].sort().values, order[:held].sort().values


def _batch(
    data: TrainingSet, rows: Tensor, how: Augment, generator: torch.Generator | None
) -> Batch:
    there = rows.to(data.labels.device, non_blocking=True)
    inputs = [one[there] for one in data.inputs]
    if how and generator is not None and data.picture is not None:
        inputs[0] = augment(inputs[0], how, data.picture, generator)
    with torch.no_grad():
        return Batch(data.prepare(*inputs), data.labels[there], rows)


def _optimizer(model: nn.Module, objective: nn.Module, config: Training) -> torch.optim.Optimizer:
    groups = list(_groups(model, objective, config))
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _groups(
    model: nn.Module, objective: nn.Module, config: Training
) -> Iterator[dict[str, object]]:
    trained = []
    for name, parameter in model.named_parameters():
        fixed = any(name == one or name.startswith(f"{one}.") for one in config.freeze)
        parameter.requires_grad_(not fixed and parameter.is_floating_point())
        if parameter.requires_grad:
            trained.append(parameter)
    if not trained:
        raise InputError("every parameter is frozen", remedy="shorten the step's freeze list")
    trained += list(objective.parameters())
    for decay in (True, False):
        chosen = [one for one in trained if (one.ndim >= _MATRIX_AXES) == decay]
        if chosen:
            weight_decay = config.weight_decay if decay else 0.0
            yield {"params": chosen, "weight_decay": weight_decay, "scale": 1.0}


def _rate(step: int, steps: int) -> float:
    """The share of the peak rate at a step."""
    warm = max(1, round(steps * _WARM_SHARE))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
