"""The training loop that every step shares: AdamW, warm-up and cosine, the same each time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from skerry.converter.graph import as_tuple
from skerry.converter.steps.base import TrainingSet, Workbench
from skerry.converter.steps.config import Distill, Finetune, Prune
from skerry.devices.errors import InputError

__all__ = ["Loss", "distillation_loss", "fit", "label_loss", "soft_targets"]

Loss = Callable[[Tensor, Tensor], Tensor]
_WARM_SHARE = 0.1
_TARGET_ROWS = 512


def fit(
    model: nn.Module, config: Distill | Finetune | Prune, bench: Workbench, loss: Loss
) -> tuple[float, ...]:
    """Train `model` in place.

    Args:
        loss: takes the first output of a batch and the batch's row numbers.

    Returns:
        The mean loss of each epoch. The model is left in eval mode.

    Raises:
        InputError: the loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(bench.seed)
    torch.manual_seed(bench.seed)
    trained = _trainable(model, config.freeze)
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    rows = len(bench.training.labels)
    steps = config.epochs * math.ceil(rows / config.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    history = []
    model.train()
    for epoch in range(config.epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(rows, generator=generator), config.batch):
            if len(chosen) == 1 and rows > 1:
                continue  # batch normalisation has no variance over one row
            total += _step(model, optimizer, bench.training, chosen, loss) * len(chosen)
            schedule.step()
        history.append(total / rows)
        if not math.isfinite(total):
            raise InputError(
                "training diverged: the loss is not finite", remedy="lower the step's learning_rate"
            )
        bench.advance(f"epoch {epoch + 1}/{config.epochs}, loss {history[-1]:.3f}")
    model.eval()
    return tuple(history)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    training: TrainingSet,
    chosen: Tensor,
    loss: Loss,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    scores = as_tuple(model(*[one[chosen] for one in training.inputs]))[0]
    value = loss(scores, chosen)
    value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()
    return float(value.detach())


def _trainable(model: nn.Module, freeze: tuple[str, ...]) -> list[nn.Parameter]:
    trained = []
    for name, parameter in model.named_parameters():
        fixed = any(name == one or name.startswith(f"{one}.") for one in freeze)
        parameter.requires_grad_(not fixed)
        if not fixed:
            trained.append(parameter)
    if not trained:
        raise InputError("every parameter is frozen", remedy="shorten the step's freeze list")
    return trained


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(steps * _WARM_SHARE))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def label_loss(labels: Tensor) -> Loss:
    """Cross-entropy against class numbers, or squared error against float targets."""
    if labels.is_floating_point():
        return lambda scores, chosen: functional.mse_loss(scores, labels[chosen])
    return lambda scores, chosen: functional.cross_entropy(scores, labels[chosen])


@torch.no_grad()
def soft_targets(teacher: nn.Module, training: TrainingSet) -> Tensor:
    """The teacher's logits for every row."""
    teacher.eval()
    parts = zip(*[torch.split(one, _TARGET_ROWS) for one in training.inputs], strict=True)
    return torch.cat([as_tuple(teacher(*part))[0] for part in parts])


def distillation_loss(
    logits: Tensor, labels: Tensor, temperature: float, hard_share: float
) -> Loss:
    """T²·KL(teacher ‖ student) at temperature T, mixed with the loss against true labels.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    hard = label_loss(labels)
    soft = functional.log_softmax(logits / temperature, -1)

    def loss(scores: Tensor, chosen: Tensor) -> Tensor:
        own = functional.log_softmax(scores / temperature, -1)
        divergence = functional.kl_div(own, soft[chosen], reduction="batchmean", log_target=True)
        mixed = (1 - hard_share) * temperature**2 * divergence
        return mixed + hard_share * hard(scores, chosen)

    return loss
