"""From the source's model to the one that is quantized: the recipe's steps, in order.

Each step's result is kept by all that it depends on, so that what was done once is not done again,
and a training that was interrupted goes on from its last epoch.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skerry.converter.cache import Cache
from skerry.converter.data.base import Dataset
from skerry.converter.graph import run
from skerry.converter.keys import Keys
from skerry.converter.loading import Loaded
from skerry.converter.source.pytorch import load_weights
from skerry.converter.steps.apply import apply_step
from skerry.converter.steps.augment import Picture
from skerry.converter.steps.base import StepRecord, TrainingSet, Workbench, parameters
from skerry.converter.steps.config import Distill
from skerry.converter.structure import save_model
from skerry.devices.errors import InputError
from skerry.devices.output import Output
from skerry.devices.targets import TARGETS

__all__ = ["Trainer", "device", "evaluate"]

_BATCH_ROWS = 256
_CPU = torch.device("cpu")
_WEIGHTS, _RECORD = "weights.safetensors", "record.json"


class Trainer:
    """The steps of a recipe, each run once or taken from the cache.

    Args:
        loaded: the recipe, with model and data.
        keys: of what was done before.
        kept: where it lies.
        output: told of progress.
    """

    def __init__(self, loaded: Loaded, keys: Keys, kept: Cache, output: Output) -> None:
        self._loaded, self._keys, self._kept, self._output = loaded, keys, kept, output
        self._steps = loaded.file.recipe.float_steps
        self._fresh: dict[int, nn.Module] = {}

    def model(self) -> nn.Module:
        """The model after all steps, in eval mode.

        Raises:
            InputError: a step cannot be done with this model; `where` names the step.
        """
        for number in range(len(self._steps)):
            self._folder(number)
        return self._after(len(self._steps)).eval()

    def weights(self) -> tuple[Path, ...]:
        """The file of weights after each step."""
        return tuple(self._folder(number) / _WEIGHTS for number in range(len(self._steps)))

    def records(self) -> tuple[StepRecord, ...]:
        """What each step did."""
        folders = [self._folder(number) for number in range(len(self._steps))]
        return tuple(
            msgspec.json.decode((one / _RECORD).read_bytes(), type=StepRecord) for one in folders
        )

    def bench(self, number: int, parts: object, advance: Any) -> Workbench:
        """What the step of that number may use."""
        loaded, recipe = self._loaded, self._loaded.file.recipe
        data = loaded.train if loaded.train is not None else loaded.evaluation
        place, wanted = device(recipe.build.device), recipe.build.precision
        return Workbench(
            source=loaded.model,
            training=self._rows(data),
            seed=recipe.build.seed + number,
            factory=loaded.module_of,
            function=lambda text: loaded.file.function(f"step[{number}].loss", text).load(),
            unlabelled=lambda text: self._rows(loaded.unlabelled[text]),
            advance=lambda detail: advance(1, detail),
            device=place,
            mixed=wanted == "bf16" or (wanted == "auto" and place.type == "cuda"),
            round_to=TARGETS[recipe.target.profile].channels,
            checkpoints=self._kept.unfinished(parts),
        )

    def _folder(self, number: int) -> Path:
        parts = ["step", self._keys.steps[number]]

        def make(folder: Path) -> None:
            model, record = self._run(number, parts)
            (folder / _WEIGHTS).write_bytes(save_model(model))
            (folder / _RECORD).write_bytes(msgspec.json.encode(record))
            self._fresh = {number + 1: model}  # the one before is not needed again

        folder, _ = self._kept.entry(parts, make)
        return folder

    def _after(self, count: int) -> nn.Module:
        """The model after that many steps."""
        if count in self._fresh:
            return self._fresh[count]
        if count == 0:
            return self._loaded.source.module()
        done = self._steps[:count]
        students = [step.student for step in done if isinstance(step, Distill) and step.student]
        loaded = self._loaded
        model = loaded.module_of(students[-1], "") if students else loaded.source.module()
        shapes = tuple(spec.shape for spec in loaded.file.recipe.input.values())
        load_weights(model, self._folder(count - 1) / _WEIGHTS, shapes)
        return model.eval()

    def _run(self, number: int, parts: object) -> tuple[nn.Module, StepRecord]:
        step, loaded = self._steps[number], self._loaded
        model = self._after(number)
        with self._output.progress(step.kind_name, step.epochs) as progress:
            began = time.monotonic()
            try:
                bench = self.bench(number, parts, progress.advance)
                model, record = apply_step(step, model, bench)
            except InputError as error:
                if error.where is None:
                    error.where = f"{loaded.file.path}: step[{number}]"
                raise
        outputs = evaluate(loaded, loaded.deployable(model), bench.device)
        return model.eval(), msgspec.structs.replace(
            record,
            metric=loaded.metric(outputs, loaded.evaluation.labels),
            seconds=round(time.monotonic() - began, 3),
            parameters=parameters(model),
        )

    def _rows(self, data: Dataset) -> TrainingSet:
        recipe = self._loaded.file.recipe
        labels = torch.zeros(len(data.labels), dtype=torch.long)
        if data.labels.dtype.kind in "fiub":  # others mean nothing to any step
            labels = torch.from_numpy(np.ascontiguousarray(data.labels))
        first = next(iter(recipe.input.values()))
        return TrainingSet(
            tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in data.inputs.values()),
            labels if labels.is_floating_point() else labels.long(),
            self._loaded.deployable(self._loaded.model).front_end(),
            None if first.picture is None else Picture(first.channels_last),
        )


def device(wanted: str) -> torch.device:
    """The device that a recipe's `build.device` means here.

    Raises:
        InputError: a CUDA device is asked for, and there is none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise InputError("there is no CUDA device", where="build.device", remedy="say auto, or cpu")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def evaluate(
    loaded: Loaded, model: nn.Module, where: torch.device = _CPU
) -> dict[str, NDArray[Any]]:
    """Every output of a deployable model over the evaluation set, by name.

    Args:
        where: it runs there, and comes back to the CPU.
    """
    batches = list(loaded.evaluation.batches(_BATCH_ROWS))
    found = run(model.to(where), batches, loaded.signature.outputs, where)
    model.to(_CPU)
    return found
