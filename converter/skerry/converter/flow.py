"""One conversion from end to end: train, quantize once, emit, prove, judge, pack.

Everything is made in a folder of its own within the output folder and put in place at the end, so a
conversion that fails leaves the release in the output folder as it was.
"""

from __future__ import annotations

from pathlib import Path

import torch

from skerry.converter.cache import Cache
from skerry.converter.emitting import emit_all
from skerry.converter.folder import only_writer, publish, staging
from skerry.converter.keys import Keys
from skerry.converter.loading import load
from skerry.converter.models import quantize
from skerry.converter.package import Conversion, refuse_foreign, save
from skerry.converter.proving import prove
from skerry.converter.recipe_file import RecipeFile
from skerry.converter.result import Result
from skerry.converter.training import Trainer
from skerry.devices.output import Output

__all__ = ["convert"]


def convert(file: RecipeFile, out: Path, output: Output) -> Result:
    """Do what a recipe says.

    Args:
        out: gets `bundle/`, `artifacts/`, `model/`, `report.html` and `result.json`.

    Returns:
        The result. Where a gate failed everything was saved all the same, and `passed` is false.

    Raises:
        InputError: the recipe, the model or the data cannot be used; `out` is as it was.
        GateError: a model or an artifact gives values that are not finite; likewise.
        UnavailableError: the disk is full or not writable, or another process writes to `out`.
    """
    build = file.recipe.build
    torch.set_num_threads(build.threads)
    torch.manual_seed(build.seed)
    with only_writer(out), staging(out) as unfinished:
        refuse_foreign(out)
        with output.progress("loading model and data"):
            loaded = load(file)
        keys, kept = Keys.of(loaded), Cache(out / "cache")
        models = quantize(loaded, Trainer(loaded, keys, kept, output), keys, kept, output)
        artifacts, sources = emit_all(loaded, models, keys, kept, output)
        proved, baselines = prove(loaded, models, artifacts, sources, keys, kept, output)
        with output.progress("writing report and bundle"):
            conversion = Conversion(loaded, models, tuple(proved), baselines, models.steps)
            result = save(conversion, unfinished / "ready")
            publish(unfinished / "ready", out)
        kept.forget_unused()
        return result
