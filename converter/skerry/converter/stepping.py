"""The training steps of a recipe alone, for a machine that trains and does not convert."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from skerry.converter.cache import Cache
from skerry.converter.folder import only_writer
from skerry.converter.keys import Keys
from skerry.converter.loading import Loaded, load
from skerry.converter.models import scheme_of
from skerry.converter.quantized_training import QUANTIZED_STATE, QuantizedTraining
from skerry.converter.raising import calibrated
from skerry.converter.recipe_file import RecipeFile
from skerry.converter.steps.base import StepRecord
from skerry.converter.structure import save_model
from skerry.converter.training import Trainer
from skerry.devices.files import cannot_write, write_atomically
from skerry.devices.output import Output

__all__ = ["train"]


def train(file: RecipeFile, out: Path, output: Output) -> tuple[StepRecord, ...]:
    """Run the steps, and leave `model/` and `steps.json` in `out`.

    Returns:
        What each step did.

    Raises:
        InputError: the recipe, the model or the data cannot be used.
        UnavailableError: the disk is full or not writable, or another process writes to `out`.
    """
    build = file.recipe.build
    if file.recipe.qat is not None and file.recipe.quantize.mixed is not None:
        raise file.wrong(
            "quantize.mixed",
            "which layers are raised is found by running the artifacts",
            "let `skerry convert` do the qat step, or name the layers in quantize.layers",
        )
    torch.set_num_threads(build.threads)
    with only_writer(out):
        with output.progress("loading model and data"):
            loaded = load(file)
        try:
            return _trained(loaded, out, output)
        except OSError as error:
            raise cannot_write(error, out) from error


def _trained(loaded: Loaded, out: Path, output: Output) -> tuple[StepRecord, ...]:
    recipe = loaded.file.recipe
    keys, kept = Keys.of(loaded), Cache(out / "cache")
    (out / "model").mkdir(parents=True, exist_ok=True)
    trainer = Trainer(loaded, keys, kept, output)
    trained = trainer.model()
    write_atomically(out / "model" / "weights.safetensors", save_model(trained))
    for number, weights in enumerate(trainer.weights(), start=1):
        write_atomically(out / "model" / f"step-{number}.safetensors", weights.read_bytes())
    records = trainer.records()
    if recipe.qat is not None:
        floating, scheme = loaded.deployable(trained), scheme_of(recipe)
        aware = QuantizedTraining(
            recipe.qat, trainer, lambda: calibrated(loaded, floating, scheme), trained
        )
        folder = aware.folder(loaded, keys, kept, output)
        state = (folder / QUANTIZED_STATE).read_bytes()
        write_atomically(out / "model" / QUANTIZED_STATE, state)
        records += (aware.record(loaded, keys, kept, output),)
    write_atomically(out / "steps.json", msgspec.json.encode(records))
    return records
