"""What a recipe says that cannot be, found before anything heavy is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from skerry.converter.emit.support import supported_levels, unsupported, unsupported_level
from skerry.converter.metric import METRICS
from skerry.converter.recipe import Input
from skerry.converter.steps.config import Distill, Prune, Qat
from skerry.devices.errors import InputError
from skerry.devices.ids import ModelName
from skerry.devices.targets import TARGETS

if TYPE_CHECKING:
    from skerry.converter.recipe_file import RecipeFile

__all__ = ["check_recipe"]


def check_recipe(file: RecipeFile) -> None:
    """Hold the parts of a recipe against each other, and against what lies on disk.

    Raises:
        RecipeError: two of them do not go together, or something is not there.
    """
    _check_names(file)
    _check_inputs(file)
    _check_sources(file)
    _check_steps(file)
    _check_targets(file)
    _check_levels(file)


def _check_names(file: RecipeFile) -> None:
    try:
        ModelName(file.recipe.model.name)
    except InputError as error:
        raise file.wrong("model.name", error.problem, error.remedy or "") from error
    if not file.recipe.input:
        raise file.wrong("input", "no input is declared", "add a table such as [input.image]")
    for kind, names in (("input", file.recipe.input), ("output", file.recipe.output)):
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name):
                raise file.wrong(
                    f"{kind}.{name}", "not a tensor name", "use letters, digits and _ alone"
                )
    if both := set(file.recipe.input) & set(file.recipe.output):
        raise file.wrong(
            f"output.{min(both)}", "an input has that name too", "give the output another name"
        )


def _check_inputs(file: RecipeFile) -> None:
    for name, spec in file.recipe.input.items():
        if spec.layout != "same" and len(spec.shape) < 2:
            raise file.wrong(
                f"input.{name}.layout",
                f"the shape {list(spec.shape)} has no channels to move",
                "write shape as [channels, height, width], or leave layout out",
            )
        if spec.resize_from is not None and len(spec.shape) != 3:
            raise file.wrong(
                f"input.{name}.resize_from",
                f"the shape {list(spec.shape)} is no picture",
                "write shape as [channels, height, width], or leave resize_from out",
            )
        _check_per_channel(file, name, "mean", spec, spec.mean)
        _check_per_channel(file, name, "std", spec, spec.std)


def _check_per_channel(
    file: RecipeFile, name: str, key: str, spec: Input, values: tuple[float, ...]
) -> None:
    if len(values) not in {0, 1, spec.channel_count}:
        raise file.wrong(
            f"input.{name}.{key}",
            f"{len(values)} numbers for {spec.channel_count} channels",
            "give one number per channel, or one for all",
        )


def _check_sources(file: RecipeFile) -> None:
    recipe = file.recipe
    if ".py:" in recipe.source.model:
        file.function("source.model", recipe.source.model)
    else:
        file.model_path()
        if recipe.source.weights:
            raise file.wrong(
                "source.weights", "a model file has its own weights", "leave this key out"
            )
    if recipe.source.weights:
        file.file("source.weights", recipe.source.weights)
    data: Mapping[str, str] = {
        "data.evaluation": recipe.data.evaluation,
        "data.validation": recipe.data.validation,
        "data.train": recipe.data.train,
        "data.calibration.from": recipe.data.calibration.source,
    }
    for key, text in data.items():
        if text and not (key.endswith(".from") and text == "train"):
            _check_data(file, key, text)
    if recipe.data.validation == recipe.data.evaluation:
        raise file.wrong(
            "data.validation", "the same rows choose and judge", "name others, or leave it out"
        )
    needed = "int8" in recipe.quantize.precisions and recipe.data.calibration.source == "train"
    if needed and not recipe.data.train:
        raise file.wrong(
            "data.calibration.from",
            "there is no training set to take calibration rows from",
            "add data.train, or name other data here",
        )
    if recipe.data.metric not in METRICS:
        if ".py:" not in recipe.data.metric:
            raise file.wrong(
                "data.metric",
                f"there is no metric {recipe.data.metric!r}",
                f"the metrics are: {', '.join(METRICS)}, or file.py:function",
            )
        file.function("data.metric", recipe.data.metric)


def _check_data(file: RecipeFile, key: str, text: str) -> None:
    if ".py:" in text:
        file.function(key, text)
    elif not text.endswith((".npz", ".parquet", ".tar")) and not (file.folder / text).is_dir():
        raise file.wrong(
            key,
            f"{text!r} is no data set",
            "give .npz, .parquet, a tar or folder of class folders, or file.py:function",
        )
    elif not (file.folder / text).is_dir():
        file.file(key, text)


def _check_steps(file: RecipeFile) -> None:
    for number, step in enumerate(file.recipe.step):
        key = f"step[{number}]"
        if not file.recipe.data.train and not (isinstance(step, Distill) and step.rows):
            raise file.wrong(key, "there is nothing to train on", "add data.train")
        if step.loss:
            file.function(f"{key}.loss", step.loss)
        if step.augment and next(iter(file.recipe.input.values())).picture is None:
            raise file.wrong(
                f"{key}.augment", "the first input is no picture", "leave this key out"
            )
        if isinstance(step, Distill):
            _check_distill(file, key, step)
        if isinstance(step, Prune) and not (step.ratio or step.ratios or step.depth < 1):
            raise file.wrong(
                f"{key}.ratio", "nothing says what to remove", "add this key, ratios or depth"
            )
        if isinstance(step, Qat):
            _check_qat(file, number)


def _check_distill(file: RecipeFile, key: str, step: Distill) -> None:
    if step.student:
        file.function(f"{key}.student", step.student)
    if step.start:
        file.file(f"{key}.start", step.start)
        if not step.student:
            raise file.wrong(
                f"{key}.start", "there is no student to begin with them", "name its factory"
            )
    if step.rows:
        _check_data(file, f"{key}.rows", step.rows)
        if step.hard_share > 0:
            raise file.wrong(f"{key}.hard_share", "the step's rows have no labels", "set it to 0")
    given = (step.weights,) if isinstance(step.weights, str) else step.weights
    if len([one for one in given if one]) > len(step.teachers):
        raise file.wrong(
            f"{key}.weights",
            f"{len(given)} files for {len(step.teachers)} teachers",
            "name one teacher per file",
        )
    for factory, weights in step.teachers:
        file.function(f"{key}.teacher", factory)
        if weights:
            file.file(f"{key}.weights", weights)


def _check_qat(file: RecipeFile, number: int) -> None:
    if number + 1 < len(file.recipe.step):
        raise file.wrong(f"step[{number}]", "qat is not the last step", "move it behind all others")
    step = file.recipe.step[number]
    if isinstance(step, Qat) and step.start:
        file.file(f"step[{number}].start", step.start)
    if "int8" not in file.recipe.quantize.precisions:
        raise file.wrong(
            f"step[{number}]", "nothing is quantized to int8", "add int8 to quantize.precisions"
        )


def _check_targets(file: RecipeFile) -> None:
    recipe = file.recipe
    for key, values in (
        ("target.formats", recipe.target.formats),
        ("quantize.precisions", recipe.quantize.precisions),
    ):
        if len(set(values)) != len(values):
            raise file.wrong(key, "one is given twice", "name each once")
    profile = recipe.target.profile
    if profile not in TARGETS:
        raise file.wrong(
            "target.profile",
            f"there is no profile {profile!r}",
            f"the profiles are: {', '.join(TARGETS)}",
        )
    if "int8-dynamic" in recipe.quantize.precisions and not TARGETS[profile].per_channel:
        raise file.wrong(
            "quantize.precisions",
            f"int8-dynamic has a scale for each channel, {profile} takes one for a weight",
            "leave it out, or name another target.profile",
        )
    for form in recipe.target.formats:
        for precision in recipe.quantize.precisions:
            if reason := unsupported(form, precision):
                raise file.wrong(
                    "quantize.precisions",
                    f"{precision} for {form}: {reason}",
                    "leave one of them out",
                )


def _check_levels(file: RecipeFile) -> None:
    """Levels of single layers: what every format has, and a gate to hold them against."""
    recipe = file.recipe
    mixed, formats = recipe.quantize.mixed, recipe.target.formats
    asked = {f"quantize.layers.{name}": level for name, level in recipe.quantize.layers.items()}
    if mixed is not None:
        asked |= {f"quantize.mixed.levels: {level}": level for level in mixed.levels}
    for key, level in asked.items():
        for form in formats:
            if reason := unsupported_level(form, level):
                able = ", ".join(supported_levels(formats))
                raise file.wrong(key, f"not for {form}: {reason}", f"choose from: {able}")
    if (asked or mixed is not None) and "int8" not in recipe.quantize.precisions:
        raise file.wrong(
            "quantize.precisions", "only int8 has layers to raise", "add it, or leave those out"
        )
    gate = recipe.gate
    if mixed is not None and (gate.accuracy_drop, gate.agreement, gate.snr_db) == (None,) * 3:
        raise file.wrong(
            "quantize.mixed",
            "there is no gate to raise layers for",
            "set gate.accuracy_drop, gate.agreement or gate.snr_db",
        )
