"""The recipe's last step, where it is one: the quantized model is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from skerry.converter.cache import Cache
from skerry.converter.keys import Keys
from skerry.converter.loading import Loaded
from skerry.converter.quantize import QuantizedModel
from skerry.converter.quantize.qat import Trainable, settled
from skerry.converter.steps.base import StepRecord, parameters
from skerry.converter.steps.config import Qat
from skerry.converter.steps.qat import train_quantized
from skerry.converter.structure import Structure
from skerry.converter.training import Trainer, evaluate
from skerry.devices.errors import InputError
from skerry.devices.output import Output

__all__ = ["QUANTIZED_STATE", "QuantizedTraining"]

QUANTIZED_STATE = "quantized.safetensors"
_RECORD = "record.json"


class QuantizedTraining:
    """Trains the quantized model once, or takes it from the cache.

    Args:
        config: how.
        trainer: of the steps before.
        calibrated: gives the model as calibration left it.
        trained: the float model that it was made of, without pre- and post-processing.
    """

    def __init__(
        self,
        config: Qat,
        trainer: Trainer,
        calibrated: Callable[[], QuantizedModel],
        trained: nn.Module,
    ) -> None:
        self._config, self._trainer = config, trainer
        self._calibrated, self._trained = calibrated, trained

    def model(self, loaded: Loaded, keys: Keys, kept: Cache, output: Output) -> QuantizedModel:
        """The quantized model that training came to."""
        folder = self.folder(loaded, keys, kept, output)
        begin = self._calibrated()
        model = Trainable(begin, scales=self._config.scales)
        model.load_state_dict(load_file(folder / QUANTIZED_STATE))
        return settled(model, begin)

    def record(self, loaded: Loaded, keys: Keys, kept: Cache, output: Output) -> StepRecord:
        """What training did."""
        folder = self.folder(loaded, keys, kept, output)
        return msgspec.json.decode((folder / _RECORD).read_bytes(), type=StepRecord)

    def folder(self, loaded: Loaded, keys: Keys, kept: Cache, output: Output) -> Path:
        """Where the trained state lies, as `QUANTIZED_STATE`."""
        parts = ["qat", keys.quantized]

        def make(folder: Path) -> None:
            model, record = self._run(loaded, parts, output)
            state = {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}
            (folder / QUANTIZED_STATE).write_bytes(save(state))
            (folder / _RECORD).write_bytes(msgspec.json.encode(record))

        folder, _ = kept.entry(parts, make)
        return folder

    def _run(self, loaded: Loaded, parts: object, output: Output) -> tuple[Trainable, StepRecord]:
        config, number = self._config, len(loaded.file.recipe.float_steps)
        begin = self._calibrated()
        model = Trainable(begin, scales=config.scales)
        if config.start:
            _load(model, loaded.file.file("step.start", config.start))
        if Structure.of(self._trained).sparse:
            names = tuple(name for name, one in model.named_parameters() if one.ndim > 1)
            Structure(sparse=names).remember(model)
        teacher = loaded.model if config.teacher == "source" else self._trained
        outputs = tuple(loaded.file.recipe.output.values())
        began = time.monotonic()
        with output.progress(config.kind_name, config.epochs) as progress:
            bench = self._trainer.bench(number, parts, progress.advance)
            try:
                history = train_quantized(
                    config,
                    model,
                    loaded.deployable(teacher),
                    bench,
                    softmax=bool(outputs) and outputs[0].softmax,
                )
            except InputError as error:
                if error.where is None:
                    error.where = f"{loaded.file.path}: step[{number}]"
                raise
        said = evaluate(loaded, settled(model, begin).module, bench.device)
        metric = loaded.metric(said, loaded.evaluation.labels)
        seconds = round(time.monotonic() - began, 3)
        record = StepRecord(
            config.kind_name,
            seconds,
            metric,
            parameters(self._trained),
            history.loss,
            history.held_out,
        )
        return model, record


def _load(model: Trainable, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"not the state of this quantized model: {str(error).splitlines()[0]}",
            where=path,
            remedy="give what `skerry train` wrote for the same float model and scheme",
        ) from error
