"""One candidate at one rung: what a worker does. In and out go as JSON, to wherever it runs."""

from __future__ import annotations

import io
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import torch

from skerry.converter.cache import Cache
from skerry.converter.data.base import Dataset
from skerry.converter.data.load import load_dataset
from skerry.converter.emitting import emit_one
from skerry.converter.graph import example_inputs
from skerry.converter.keys import Keys
from skerry.converter.loading import Loaded, load
from skerry.converter.models import INT8, SOURCE_PRECISION, Models, quantize
from skerry.converter.proof import Outputs, ProofLimits, open_runner, pace
from skerry.converter.proving import Made, refuse_not_finite
from skerry.converter.quantize.capture import capture
from skerry.converter.quantize.fold import fold_linear
from skerry.converter.recipe import Input, Recipe, Search
from skerry.converter.recipe_file import RecipeFile, check_document
from skerry.converter.result import Latency
from skerry.converter.search.budget import Merit
from skerry.converter.search.journal import Entry, StepOutcome, Unseen
from skerry.converter.search.latency import Work, latency_table, work_of
from skerry.converter.search.rebase import rebased
from skerry.converter.search.toml_text import toml_text
from skerry.converter.steps.base import StepRecord
from skerry.converter.structure import save_model
from skerry.converter.training import Trainer
from skerry.devices.errors import GateError, InputError
from skerry.devices.files import cannot_write
from skerry.devices.output import Output

__all__ = ["Task", "choosing_and_judging", "judged", "run_task"]

_LEAST_ROWS = 64  # of a smaller data set at a low rung
_DATASETS = 4  # kept in memory by a worker


class Task(msgspec.Struct, frozen=True):
    """What to do.

    Attributes:
        trial, rung, values: which candidate, how far, and what is particular to it.
        recipe: the path of the recipe that is searched around.
        document: the candidate's recipe.
        share: of epochs and rows, 0 to 1; at 1 the artifact is emitted, run and kept.
        measured: whether latency is measured, or counted.
        cache: the folder of finished work.
        kept: the folder that the candidate gets.
    """

    trial: int
    rung: int
    values: dict[str, Any]
    recipe: str
    document: dict[str, Any]
    share: float
    measured: bool
    cache: str
    kept: str


def judged(recipe: Recipe) -> tuple[str, str]:
    """The artifact that stands for a candidate: format and precision.

    The first format that has an engine here, in int8 if the recipe has it.
    """
    precisions = recipe.quantize.precisions
    forms = [form for form in recipe.target.formats if form != "coreml"]
    return (forms or ["onnx"])[0], INT8 if INT8 in precisions else precisions[0]


def run_task(encoded: bytes) -> bytes:
    """Carry out a `Task`; its `Entry`. A candidate that cannot be made says so in its problem.

    Raises:
        UnavailableError: the disk is full or not writable, which is no candidate's fault.
    """
    task = msgspec.json.decode(encoded, type=Task)
    began = time.monotonic()
    try:
        entry = _run(task)
    except (GateError, InputError) as error:
        entry = Entry(task.trial, task.rung, task.values, None, problem=str(error))
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        entry = Entry(task.trial, task.rung, task.values, None, problem=words)
    except OSError as error:
        raise cannot_write(error, task.cache) from error
    seconds = round(time.monotonic() - began, 3)
    return msgspec.json.encode(msgspec.structs.replace(entry, seconds=seconds))


def _run(task: Task) -> Entry:
    file = check_document(Path(task.recipe), task.document)
    torch.set_num_threads(file.recipe.build.threads)
    torch.manual_seed(file.recipe.build.seed)
    whole = load(file, _remembered)
    chosen_by, judged_by = choosing_and_judging(whole)
    chosen = replace(whole, evaluation=chosen_by, validation=chosen_by)
    loaded = _reduced(chosen, task.share)
    keys, kept = Keys.of(loaded), Cache(Path(task.cache))
    silent = Output(err=io.StringIO())
    models = quantize(loaded, Trainer(loaded, keys, kept, silent), keys, kept, silent)
    form, precision = judged(file.recipe)
    points = loaded.metric(
        models.outputs.get("quantized", models.outputs["floating"])
        if precision == INT8
        else models.outputs["floating"],
        loaded.evaluation.labels,
    )
    candidate = _Candidate(loaded, models, keys, kept, form, precision)
    if task.share < 1:
        merit, digest, unseen = candidate.estimate(points), "", None
        measured = (0.0, 0.0)
    else:
        merit, measured, made = candidate.measure(task.measured)
        unseen = candidate.unseen(made, judged_by)
        digest = str(made.blob.digest)
        _keep(task, file, models, made)
    return Entry(
        task.trial,
        task.rung,
        task.values,
        merit,
        quantized_metric=round(points, 4),
        steps=tuple(_outcome(step) for step in models.steps),
        unseen=unseen,
        sha256=digest,
        measured_ms=measured[0],
        measured_ratio=measured[1],
    )


def _outcome(step: StepRecord) -> StepOutcome:
    return StepOutcome(step.kind, step.seconds, step.metric, step.parameters)


def choosing_and_judging(loaded: Loaded) -> tuple[Dataset, Dataset]:
    """The rows that candidates are chosen by, and those that the front is judged by.

    No row is in both, as long as the validation rows of the recipe, where it names some, are none
    of the evaluation rows.
    """
    recipe = loaded.file.recipe
    if recipe.data.validation:
        return loaded.validation, loaded.evaluation
    how = recipe.search or Search({})
    return loaded.evaluation.parted(how.validation, how.seed)


class _Candidate:
    """A trained and quantized model, to be weighed."""

    def __init__(
        self,
        loaded: Loaded,
        models: Models,
        keys: Keys,
        kept: Cache,
        form: Any,
        precision: str,
    ) -> None:
        self._loaded, self._models, self._keys, self._kept = loaded, models, keys, kept
        self._form, self._precision = form, precision
        self._source_points = loaded.metric(models.outputs["source"], loaded.evaluation.labels)

    def estimate(self, points: float) -> Merit:
        """By counting, before anything is emitted."""
        own, source = self._work()
        table = latency_table(self._loaded.file.recipe.target.profile, self._form)
        took, base = table.milliseconds(own), table.milliseconds(source)
        ratio = own.weight_bytes / source.weight_bytes
        return self._merit(own.weight_bytes, ratio, took, took / base, points)

    def measure(self, by_clock: bool) -> tuple[Merit, tuple[float, float], Made]:
        """By emitting the artifact and running it on all rows that candidates are chosen by.

        Returns:
            The merit; the latency in ms that was measured and its ratio; and the artifact.
        """
        made = self._emit(self._precision, Models.of_precision(self._precision))
        source = self._emit(SOURCE_PRECISION, "source")
        found, (own, base) = self._take(made, source)
        points = self._loaded.metric(found, self._loaded.evaluation.labels)
        bytes_, ratio = made.blob.size, made.blob.size / source.blob.size
        clock = (own.p50, round(own.p50 / base.p50, 4))
        if by_clock:
            return self._merit(bytes_, ratio, *clock, points), clock, made
        table = latency_table(self._loaded.file.recipe.target.profile, self._form)
        took, at_first = (table.milliseconds(work) for work in self._work())
        return self._merit(bytes_, ratio, took, took / at_first, points), clock, made

    def unseen(self, made: Made, rows: Dataset) -> Unseen:
        """Points of the artifact on rows that play no part in choosing."""
        source = self._emit(SOURCE_PRECISION, "source")
        found, base = (
            self._loaded.metric(self._run(one, rows), rows.labels) for one in (made, source)
        )
        return Unseen(len(rows), round(found, 4), round(base - found, 4))

    def _run(self, made: Made, rows: Dataset) -> Outputs:
        signature = self._loaded.signature
        runner = open_runner(made.emitted, signature.input_names, signature.output_names)
        try:
            found = runner.over(rows, ProofLimits(), lambda _: None)
        finally:
            runner.engine.close()
        refuse_not_finite(made, found)
        return found

    def _merit(
        self, bytes_: int, bytes_ratio: float, ms: float, ms_ratio: float, points: float
    ) -> Merit:
        drop = self._source_points - points
        return Merit(
            bytes_,
            round(bytes_ratio, 6),
            round(ms, 6),
            round(ms_ratio, 6),
            round(points, 4),
            round(drop, 4),
        )

    def _emit(self, precision: str, whose: str) -> Made:
        what = (self._form, precision, whose)
        return emit_one(self._loaded, self._models, self._keys, self._kept, what)

    def _take(self, made: Made, source: Made) -> tuple[Outputs, tuple[Latency, Latency]]:
        signature, rows = self._loaded.signature, self._loaded.evaluation
        names = (signature.input_names, signature.output_names)
        limits = ProofLimits(timed_calls=200, longest_seconds=2.0)
        runner = open_runner(made.emitted, *names)
        baseline = open_runner(source.emitted, *names)
        try:
            found = runner.over(rows, limits, lambda _: None)
            refuse_not_finite(made, found)
            return found, pace(runner, baseline, rows, limits)
        finally:
            runner.engine.close()
            baseline.engine.close()

    def _work(self) -> tuple[Work, Work]:
        """Of the candidate in its precision, and of the source as fp32."""
        example = example_inputs(self._loaded.file.recipe.input)
        by_hand = self._loaded.file.recipe.quantize.layers
        levels = {one.layer: one.level for one in self._models.chosen} | dict(by_hand)
        own = capture(self._models.floating, example)
        fold_linear(own)
        source = capture(self._models.source, example)
        fold_linear(source)
        is_int8 = self._precision == INT8
        default = INT8 if is_int8 else "fp16" if self._precision == "fp16" else SOURCE_PRECISION
        return work_of(own, levels if is_int8 else {}, default), work_of(source, {}, "fp32")


def _reduced(loaded: Loaded, share: float) -> Loaded:
    """The same with fewer rows and epochs."""
    if share == 1:
        return loaded
    recipe, seed = loaded.file.recipe, loaded.file.recipe.build.seed
    steps = tuple(
        msgspec.structs.replace(step, epochs=max(1, round(step.epochs * share)))
        if step.epochs
        else step
        for step in recipe.step
    )

    def fewer(data: Dataset) -> Dataset:
        return data.sample(max(_LEAST_ROWS, math.ceil(len(data) * share)), seed)

    return replace(
        loaded,
        file=RecipeFile(loaded.file.path, msgspec.structs.replace(recipe, step=steps)),
        train=None if loaded.train is None else fewer(loaded.train),
        evaluation=(evaluation := fewer(loaded.evaluation)),
        validation=evaluation,
    )


def _keep(task: Task, file: RecipeFile, models: Models, made: Made) -> None:
    """The candidate on disk: the recipe that makes it again, its weights and its artifact."""
    folder = Path(task.kept)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        text = toml_text(rebased(_settled(task.document, models), file.folder, folder))
        head = f"# Candidate {task.trial} of a search. Paths are relative to this file.\n\n"
        (part / "recipe.toml").write_text(head + text, encoding="utf-8")
        (part / "weights.safetensors").write_bytes(save_model(models.trained))
        shutil.copyfile(made.emitted.path, part / made.filename)
        part.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _settled(document: dict[str, Any], models: Models) -> dict[str, Any]:
    """The recipe with the levels of its layers as they were chosen here, from fewer rows than a
    conversion would look at."""
    if not models.chosen:
        return document
    quantize = {key: value for key, value in document["quantize"].items() if key != "mixed"}
    raised = {one.layer: one.level for one in models.chosen if one.level != INT8}
    return {**document, "quantize": {**quantize, "layers": quantize.get("layers", {}) | raised}}


def _remembered(
    text: str, folder: Path, inputs: Mapping[str, Input], classes: int | None
) -> Dataset:
    return _dataset(text, folder, tuple(inputs.items()), classes)


@lru_cache(maxsize=_DATASETS)
def _dataset(
    text: str, folder: Path, inputs: tuple[tuple[str, Input], ...], classes: int | None
) -> Dataset:
    return load_dataset(text, folder, dict(inputs), classes)
