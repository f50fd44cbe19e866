"""Every artifact of a recipe, and the source as fp32 in every format to hold them against."""

from __future__ import annotations

from pathlib import Path

import msgspec

from skerry.converter.archive import pack_folder
from skerry.converter.cache import Cache
from skerry.converter.emit import Emitted, Tuning, emit
from skerry.converter.graph import example_inputs
from skerry.converter.keys import Keys
from skerry.converter.loading import Loaded
from skerry.converter.models import SOURCE_PRECISION, Models
from skerry.converter.proving import Made
from skerry.devices.digest import digest_file
from skerry.devices.output import Output
from skerry.devices.targets import TARGETS
from skerry.runtime.bundle.card import Format, TensorSpec

__all__ = ["emit_all", "emit_one"]

_RECORD = "emitted.json"


class _Record(msgspec.Struct, frozen=True):
    """What is kept of an `Emitted`."""

    filename: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def emit_all(
    loaded: Loaded, models: Models, keys: Keys, kept: Cache, output: Output
) -> tuple[list[Made], dict[Format, Made]]:
    """Emit what the recipe asks for.

    Returns:
        The artifacts, and the source as fp32 by format.

    Raises:
        InputError: the model cannot be traced.
        UnsupportedError: an operator has no lowering in a format; it is named.
    """
    recipe = loaded.file.recipe
    precisions, forms = recipe.quantize.precisions, recipe.target.formats
    shared = not recipe.float_steps and SOURCE_PRECISION in precisions
    artifacts: list[Made] = []
    sources: dict[Format, Made] = {}

    def make(form: Format, precision: str, whose: str) -> Made:
        made = emit_one(loaded, models, keys, kept, (form, precision, whose))
        progress.advance(1, made.name)
        return made

    total = len(forms) * (len(precisions) + (0 if shared else 1))
    with output.progress("emitting", total) as progress:
        for form in forms:
            for precision in precisions:
                artifacts.append(make(form, precision, models.of_precision(precision)))
                if shared and precision == SOURCE_PRECISION:
                    sources[form] = artifacts[-1]
            if form not in sources:
                sources[form] = make(form, SOURCE_PRECISION, "source")
    return artifacts, sources


def emit_one(
    loaded: Loaded, models: Models, keys: Keys, kept: Cache, what: tuple[Format, str, str]
) -> Made:
    """One file, from the cache or emitted anew.

    Args:
        what: format, precision, and whose model it is: `source`, `floating` or `quantized`.

    Raises:
        UnsupportedError: an operator has no lowering in the format; it is named.
    """
    form, precision, whose = what

    def write(folder: Path) -> None:
        example = example_inputs(loaded.file.recipe.input)
        model = models.named(whose)
        emitted = emit(form, precision, model, example, loaded.signature, folder, _tuning(loaded))
        if form == "coreml":
            pack_folder(emitted.path, emitted.path.with_name(f"{emitted.path.name}.tar"))
        record = _Record(emitted.path.name, emitted.inputs, emitted.outputs)
        (folder / _RECORD).write_bytes(msgspec.json.encode(record))

    folder, _ = kept.entry(keys.emitted(whose, form, precision), write)
    record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=_Record)
    path = folder / record.filename
    emitted = Emitted(path, form, precision, record.inputs, record.outputs)
    stem = f"{loaded.file.recipe.model.name}-{precision}"
    if form != "coreml":
        return Made(emitted, digest_file(path), f"{stem}{path.suffix}")
    tar = path.with_name(f"{path.name}.tar")
    return Made(emitted, digest_file(tar), f"{stem}.mlpackage.tar")


def _tuning(loaded: Loaded) -> Tuning:
    recipe = loaded.file.recipe
    return Tuning(TARGETS[recipe.target.profile], recipe.quantize.sparsity)
