"""One conversion from end to end: train, quantize once, emit, prove, judge, pack.

Everything is made in a folder beside the output folder and put in place at the end, so a conversion
that fails leaves the output folder as it was.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from skerry.converter.archive import pack_folder
from skerry.converter.emit import Emitted, emit
from skerry.converter.graph import example_inputs
from skerry.converter.loading import Loaded, load
from skerry.converter.models import SOURCE_PRECISION, Models, quantize
from skerry.converter.package import Conversion, save
from skerry.converter.proving import Made, prove
from skerry.converter.recipe_file import RecipeFile
from skerry.converter.result import Result
from skerry.converter.training import run_steps
from skerry.devices.digest import digest_file
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.output import Output
from skerry.runtime.bundle.card import Format

__all__ = ["convert"]


def convert(file: RecipeFile, out: Path, output: Output) -> Result:
    """Do what a recipe says.

    Args:
        out: gets `bundle/`, `artifacts/`, `model/`, `report.html` and `result.json`.

    Returns:
        The result. Where a gate failed everything was saved all the same, and `passed` is false.

    Raises:
        InputError: the recipe, the model or the data cannot be used; `out` is as it was.
        UnavailableError: the disk is full or not writable.
    """
    build = file.recipe.build
    torch.set_num_threads(build.threads)
    torch.manual_seed(build.seed)
    with _staging(out) as staging:
        with output.progress("loading model and data"):
            loaded = load(file)
        trained, steps = run_steps(loaded, output)
        models = quantize(loaded, trained, output)
        artifacts, sources = _emit(loaded, models, staging, output)
        proved, baselines = prove(loaded, models, artifacts, sources, output)
        with output.progress("writing report and bundle"):
            conversion = Conversion(loaded, models, tuple(proved), baselines, steps)
            return save(conversion, staging, out)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside `out`, gone when the block ends."""
    parent = out.absolute().parent
    try:
        if out.exists() and not out.is_dir():
            raise InputError("is a file", where=out, remedy="name a folder with --out")
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}."))
    except OSError as error:
        raise UnavailableError(f"cannot write: {error.strerror}", where=out) from error
    try:
        yield staging
    except OSError as error:
        raise UnavailableError(
            f"cannot write: {error.strerror}", where=out, remedy="free some space and try again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _emit(
    loaded: Loaded, models: Models, staging: Path, output: Output
) -> tuple[list[Made], dict[Format, Made]]:
    """Every artifact, and the source as fp32 in every format."""
    recipe = loaded.file.recipe
    precisions, forms = recipe.quantize.precisions, recipe.target.formats
    shared = not recipe.step and SOURCE_PRECISION in precisions
    artifacts: list[Made] = []
    sources: dict[Format, Made] = {}

    def make(form: Format, precision: str, whose: str) -> Made:
        model = models.source if whose == "source" else models.for_precision(precision)[1]
        folder = staging / whose / f"{form}-{precision}"
        folder.mkdir(parents=True)
        example = example_inputs(recipe.input)
        emitted = emit(form, precision, model, example, loaded.signature, folder)
        progress.advance(1, f"{form} {precision}")
        return _made(emitted, f"{recipe.model.name}-{precision}")

    total = len(forms) * (len(precisions) + (0 if shared else 1))
    with output.progress("emitting", total) as progress:
        for form in forms:
            artifacts += [make(form, precision, "artifacts") for precision in precisions]
            fp32 = next(
                (one for one in artifacts if one.name == f"{form}-{SOURCE_PRECISION}"), None
            )
            sources[form] = fp32 if shared and fp32 else make(form, SOURCE_PRECISION, "source")
    return artifacts, sources


def _made(emitted: Emitted, stem: str) -> Made:
    """What is shipped of an emitted file: itself, or the tar of a package."""
    if emitted.format != "coreml":
        return Made(emitted, digest_file(emitted.path), f"{stem}{emitted.path.suffix}")
    tar = emitted.path.with_name(f"{emitted.path.name}.tar")
    pack_folder(emitted.path, tar)
    return Made(emitted, digest_file(tar), f"{stem}.mlpackage.tar")
