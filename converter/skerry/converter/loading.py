"""Everything a conversion starts from, loaded and checked against each other before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from skerry.converter.data.base import Dataset
from skerry.converter.data.load import load_dataset, load_rows
from skerry.converter.emit import Signature
from skerry.converter.emit.support import refuse_estimator
from skerry.converter.graph import Deployable, as_tuple, example_inputs
from skerry.converter.labels import class_count, for_metric, for_training, numbered
from skerry.converter.metric import Metric, metric_by_name
from skerry.converter.recipe import Input, OutputTensor
from skerry.converter.recipe_file import RecipeFile
from skerry.converter.source.base import ModelSource
from skerry.converter.source.estimator import Estimator
from skerry.converter.source.pytorch import PyTorchSource
from skerry.converter.source.select import open_source
from skerry.converter.steps.config import Distill, Qat, reads_labels
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["DatasetReader", "Loaded", "load"]

DatasetReader = Callable[[str, Path, Mapping[str, Input], int | None], Dataset]


@dataclass(frozen=True)
class Loaded:
    """What a conversion starts from.

    Attributes:
        model: the source's module, in eval mode.
        signature: inputs and outputs as callers see them.
        evaluation: rows that everything is judged by.
        validation: rows that choices are made by; the evaluation rows where no others are named.
        train: rows for training steps, or None.
        calibration: rows for quantization; empty of meaning where nothing is quantized.
        unlabelled: rows that steps name, by what they call them; their labels mean nothing.
        materials: every file that went in, by name.
    """

    file: RecipeFile
    source: ModelSource
    model: nn.Module
    signature: Signature
    evaluation: Dataset
    validation: Dataset
    train: Dataset | None
    calibration: Dataset | None
    unlabelled: Mapping[str, Dataset]
    metric: Metric
    materials: dict[str, Path]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by number: the recipe's, or what data or estimator say; may be empty."""
        named = self.file.recipe.model.labels or self.evaluation.classes
        return named or (self.model.classes if isinstance(self.model, Estimator) else ())

    def deployable(self, model: nn.Module) -> Deployable:
        """`model` with the recipe's pre- and post-processing, in eval mode."""
        recipe = self.file.recipe
        return Deployable(model, recipe.input, recipe.output).eval()

    def module_of(self, factory: str, weights: str) -> nn.Module:
        """The module of a `file.py:factory` in the recipe, with weights if it names some."""
        shapes = tuple(spec.shape for spec in self.file.recipe.input.values())
        path = self.file.file("step.weights", weights) if weights else None
        return PyTorchSource(self.file.function("step", factory), path, shapes).module()


def load(file: RecipeFile, read: DatasetReader = load_dataset) -> Loaded:
    """Load model and data, and check that they fit each other and the recipe.

    Args:
        read: gives a data set; one that remembers saves the time where many recipes share them.

    Raises:
        RecipeError: a shape, name or count in the recipe does not fit.
        InputError: the model or a data set cannot be used.
    """
    recipe = file.recipe
    torch.manual_seed(recipe.build.seed)
    source = open_source(file)
    model = source.module()
    if isinstance(model, Estimator):
        _check_estimator(file, model)
    signature = _signature(file, model)
    _check_students(file, signature)
    _load_losses(file)
    row = signature.outputs[0].shape[1:]
    classes = class_count(file, row)

    def dataset(key: str, text: str) -> Dataset:
        rows = numbered(file, key, read(text, file.folder, recipe.input, classes), classes)
        return rows if classes is None else for_metric(file, key, rows, row)

    data = recipe.data
    evaluation = dataset("data.evaluation", data.evaluation)
    train = dataset("data.train", data.train) if data.train else None
    validation = dataset("data.validation", data.validation) if data.validation else evaluation
    for key, rows in (("train", train), ("validation", validation)):
        if rows is not None and rows.classes != evaluation.classes:
            raise file.wrong(
                f"data.{key}",
                "its class folders are not those of data.evaluation",
                "let both have the same",
            )
    wanted = data.calibration
    calibration = (
        train if wanted.source == "train" else dataset("data.calibration.from", wanted.source)
    )
    if train is not None and any(reads_labels(step) for step in recipe.step):
        train = for_training(file, "data.train", train, row)
    if train is not None:
        _check_seen(file, train)
    return Loaded(
        file=file,
        source=source,
        model=model,
        signature=signature,
        evaluation=evaluation,
        validation=validation,
        train=train,
        calibration=None if calibration is None else calibration.sample(wanted.count, wanted.seed),
        unlabelled={text: load_rows(text, file.folder, recipe.input) for text in _named_rows(file)},
        metric=metric_by_name(recipe.data.metric, file.folder),
        materials=_materials(file, source),
    )


def _check_seen(file: RecipeFile, train: Dataset) -> None:
    """Refuse labels that a step or its loss looks at and that cannot be what they are there.

    Raises:
        RecipeError: they are words, or say where something lies while pictures are moved.
    """
    for number, step in enumerate(file.recipe.step):
        if not (reads_labels(step) or step.loss):
            continue
        if train.labels.dtype.kind not in "fiub":
            raise file.wrong(
                "data.train",
                f"step[{number}].loss looks at labels, and they are {train.labels.dtype}",
                "give numbers",
            )
        if step.augment and train.labels.ndim > 2:
            raise file.wrong(
                f"step[{number}].augment",
                f"pictures are moved, labels of shape {train.labels.shape[1:]} a row are not",
                "leave this key out, and hold rows ready that are augmented with their labels",
            )


def _check_estimator(file: RecipeFile, model: Estimator) -> None:
    """What a scikit-learn estimator cannot have is refused before any data are loaded.

    Raises:
        UnsupportedError: another format or precision is asked for.
        RecipeError: its inputs are not one row of features, or something is to be done to them.
    """
    recipe = file.recipe
    for fmt in recipe.target.formats:
        for precision in recipe.quantize.precisions:
            refuse_estimator(fmt, precision)
    names = list(recipe.input)
    spec = recipe.input[names[0]]
    if len(names) > 1 or spec != Input(shape=(model.features,)):
        raise file.wrong(
            f"input.{names[-1]}",
            "a scikit-learn estimator takes one row of features, and prepares them itself",
            f"declare one input, with shape = [{model.features}] alone",
        )
    if any(one != OutputTensor() for one in recipe.output.values()):
        raise file.wrong(
            f"output.{next(iter(recipe.output))}",
            "a scikit-learn estimator gives probabilities or predictions as they are",
            "leave the keys of its output out",
        )
    if recipe.step:
        raise file.wrong("step[0]", "a scikit-learn estimator is not trained here", "leave it out")


def _signature(file: RecipeFile, model: nn.Module) -> Signature:
    """Run one batch of zeros, to see that the shapes fit and what comes out."""
    recipe = file.recipe
    found = _try(file, model, top=False)
    names = list(recipe.output)
    if len(names) > len(found):
        raise file.wrong(
            f"output.{names[len(found)]}",
            f"the model gives {len(found)} outputs, the recipe names {len(names)}",
            "remove the table",
        )
    names += ["output"] if not names and len(found) == 1 else []
    names += [f"output_{number}" for number in range(len(names), len(found))]
    tops = _tops(file, found)
    if tops:
        found = _try(file, model)
        names += [f"{name}_{what}" for name in tops for what in ("top", "labels")]
    inputs = tuple(
        TensorSpec(name, spec.dtype, (-1, *spec.caller_shape))
        for name, spec in recipe.input.items()
    )
    outputs = tuple(
        TensorSpec(name, str(one.dtype).removeprefix("torch."), (-1, *one.shape[1:]))
        for name, one in zip(names, found, strict=True)
    )
    return Signature(inputs, outputs)


def _tops(file: RecipeFile, found: Sequence[Tensor]) -> list[str]:
    """The outputs whose largest values are wanted besides, if they have as many."""
    wanted = []
    for (name, spec), scores in zip(file.recipe.output.items(), found, strict=False):
        if spec.top > (scores.shape[-1] if scores.ndim > 1 else 0):
            raise file.wrong(
                f"output.{name}.top",
                f"{spec.top} of {list(scores.shape[1:])} values a row",
                "ask for no more than there are",
            )
        wanted += [name] if spec.top else []
    return wanted


def _try(
    file: RecipeFile, model: nn.Module, key: str = "source.model", *, top: bool = True
) -> Sequence[Tensor]:
    recipe = file.recipe
    outputs = {
        name: spec if top else msgspec.structs.replace(spec, top=0)
        for name, spec in recipe.output.items()
    }
    shapes = {name: list(spec.shape) for name, spec in recipe.input.items()}
    wrapped = Deployable(model, recipe.input, outputs).eval()
    rows = 2
    try:
        with torch.no_grad():
            found = as_tuple(wrapped(*example_inputs(recipe.input, rows)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise file.wrong(
            "input." + ", input.".join(f"{name}.shape" for name in shapes),
            f"{', '.join(map(str, shapes.values()))} does not fit the model of {key}: {reason}",
            "give one row as the model takes it, channels first, without the batch",
        ) from error
    if any(one.ndim < 1 or one.shape[0] != rows for one in found):
        raise file.wrong(
            key, "the first axis of an output is not the batch", "return one result per row"
        )
    return found


def _named_rows(file: RecipeFile) -> list[str]:
    """What the steps call the rows that they learn from instead of the training rows."""
    steps = file.recipe.step
    return [step.rows for step in steps if isinstance(step, Distill) and step.rows]


def _load_losses(file: RecipeFile) -> None:
    """Run the files of the user's losses, so that one which cannot be run is known, and what it
    imports."""
    for number, step in enumerate(file.recipe.step):
        if step.loss:
            file.function(f"step[{number}].loss", step.loss).load()


def _check_students(file: RecipeFile, signature: Signature) -> None:
    """Try every student and teacher of the recipe before the first epoch."""
    for number, step in enumerate(file.recipe.step):
        if not isinstance(step, Distill):
            continue
        teachers = [("teacher", text) for text, _ in step.teachers]
        for key, text in [("student", step.student), *teachers]:
            if not text:
                continue
            where = f"step[{number}].{key}"
            module = file.function(where, text).call()
            if not isinstance(module, nn.Module):
                raise file.wrong(where, "gave no torch.nn.Module", "return the module")
            scores = _try(file, module.eval(), where, top=False)[0]
            wanted = signature.outputs[0].shape[1:]
            if tuple(scores.shape[1:]) != wanted:
                raise file.wrong(
                    where,
                    f"gives {list(scores.shape[1:])} a row, the source gives {list(wanted)}",
                    "let both have the same outputs",
                )


def _materials(file: RecipeFile, source: ModelSource) -> dict[str, Path]:
    """The files that decide the outcome, by name; those of one name are numbered."""
    recipe = file.recipe
    paths = [file.path.resolve(), *source.materials().values()]
    data = recipe.data
    texts = [data.evaluation, data.validation, data.train, data.calibration.source, data.metric]
    for step in recipe.step:
        if isinstance(step, Distill):
            texts += [step.student, step.start, step.rows]
            texts += [text for teacher in step.teachers for text in teacher]
        if isinstance(step, Qat):
            texts.append(step.start)
        texts.append(step.loss)
    for text in texts:
        path = (file.folder / text.partition(".py:")[0]).resolve()
        path = path.with_name(path.name + ".py") if ".py:" in text else path
        if path.is_file() and path not in paths:
            paths.append(path)
    found: dict[str, Path] = {}
    for path in paths:
        name, number = path.name, 2
        while found.get(name, path) != path:
            name, number = f"{path.stem}-{number}{path.suffix}", number + 1
        found[name] = path
    return found
