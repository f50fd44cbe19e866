"""From the source's model to the one that is quantized: the recipe's steps, in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skerry.converter.cache import Cache
from skerry.converter.data.base import Dataset
from skerry.converter.graph import Deployable, as_tensors, run
from skerry.converter.keys import Keys
from skerry.converter.loading import Loaded
from skerry.converter.source.pytorch import load_weights
from skerry.converter.steps.base import StepRecord, TrainingSet, Workbench, parameters
from skerry.converter.steps.config import Distill, Finetune, Prune, Step
from skerry.converter.steps.distill import distill
from skerry.converter.steps.finetune import finetune
from skerry.converter.steps.prune import prune
from skerry.converter.structure import save_model
from skerry.devices.errors import InputError
from skerry.devices.output import Output

__all__ = ["evaluate", "run_steps", "trained_model"]

_BATCH_ROWS = 256
_WEIGHTS, _RECORDS = "weights.safetensors", "records.json"


def trained_model(
    loaded: Loaded, keys: Keys, kept: Cache, output: Output
) -> tuple[nn.Module, tuple[StepRecord, ...]]:
    """The model after the recipe's steps, from the cache where they were run before."""
    recipe = loaded.file.recipe
    if not recipe.step:
        return loaded.source.module(), ()
    fresh: list[tuple[nn.Module, tuple[StepRecord, ...]]] = []

    def make(folder: Path) -> None:
        model, records = run_steps(loaded, output)
        (folder / _WEIGHTS).write_bytes(save_model(model))
        (folder / _RECORDS).write_bytes(msgspec.json.encode(records))
        fresh.append((model, records))

    folder, _ = kept.entry(["trained", keys.trained], make)
    if fresh:
        return fresh[0]
    students = [step.student for step in recipe.step if isinstance(step, Distill) and step.student]
    model = loaded.module_of(students[-1], "") if students else loaded.source.module()
    shapes = tuple(spec.shape for spec in recipe.input.values())
    load_weights(model, folder / _WEIGHTS, shapes)
    records = msgspec.json.decode((folder / _RECORDS).read_bytes(), type=tuple[StepRecord, ...])
    return model.eval(), records


def run_steps(loaded: Loaded, output: Output) -> tuple[nn.Module, tuple[StepRecord, ...]]:
    """Run every step of the recipe on a copy of the source's model.

    Returns:
        The model in eval mode, and what each step did.

    Raises:
        InputError: a step cannot be done with this model; `where` names the step.
    """
    recipe = loaded.file.recipe
    model = loaded.source.module()
    records: list[StepRecord] = []
    if not recipe.step or loaded.train is None:
        return model, ()
    training = _training_set(loaded.train, loaded.deployable(loaded.model))
    for number, step in enumerate(recipe.step):
        with output.progress(f"{step.kind_name}", step.epochs) as progress:

            def advance(detail: str, count: Callable[..., None] = progress.advance) -> None:
                count(1, detail)

            bench = Workbench(
                source=loaded.model,
                training=training,
                seed=recipe.build.seed + number,
                factory=loaded.module_of,
                advance=advance,
            )
            began = time.monotonic()
            try:
                model, loss = _apply(step, model, bench)
            except InputError as error:
                if error.where is None:
                    error.where = f"{loaded.file.path}: step[{number}]"
                raise
        outputs = evaluate(loaded, loaded.deployable(model))
        metric = loaded.metric(outputs, loaded.evaluation.labels)
        seconds = round(time.monotonic() - began, 3)
        records.append(StepRecord(step.kind_name, seconds, metric, parameters(model), loss))
    return model.eval(), tuple(records)


def evaluate(loaded: Loaded, model: nn.Module) -> dict[str, NDArray[Any]]:
    """Every output of a deployable model over the evaluation set, by name."""
    batches = list(loaded.evaluation.batches(_BATCH_ROWS))
    return run(model, batches, loaded.signature.outputs)


def _apply(step: Step, model: nn.Module, bench: Workbench) -> tuple[nn.Module, tuple[float, ...]]:
    match step:
        case Distill():
            return distill(step, model, bench)
        case Prune():
            return prune(step, model, bench)
        case Finetune():
            return finetune(step, model, bench)


@torch.no_grad()
def _training_set(data: Dataset, deployable: Deployable) -> TrainingSet:
    """The rows as the model takes them: what the graph does to inputs, done once."""
    parts: list[tuple[Tensor, ...]] = [
        deployable.prepare(*as_tensors(batch)) for batch in data.batches(_BATCH_ROWS)
    ]
    inputs = tuple(torch.cat(column).contiguous() for column in zip(*parts, strict=True))
    labels = torch.from_numpy(np.ascontiguousarray(data.labels))
    return TrainingSet(inputs, labels if labels.is_floating_point() else labels.long())
