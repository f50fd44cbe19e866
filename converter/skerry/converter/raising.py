"""Find the layers that int8 hurts, and raise the fewest of them with which the gate holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
from torch import nn

from skerry.converter.cache import Cache
from skerry.converter.emit.support import Level, supported_levels
from skerry.converter.gates import Measured, judge
from skerry.converter.graph import as_tensors, example_inputs, run
from skerry.converter.keys import Keys
from skerry.converter.loading import Loaded
from skerry.converter.metric import agreement, snr_db
from skerry.converter.mixed import (
    Finding,
    LayerChoice,
    Step,
    choices,
    climb,
    fewest,
    moves,
    worst_first,
)
from skerry.converter.proof import Outputs
from skerry.converter.quantize import QuantizedModel, Scheme, calibrate
from skerry.converter.quantize.alone import alone, sites
from skerry.converter.recipe import Mixed
from skerry.converter.training import evaluate
from skerry.devices.errors import InputError
from skerry.devices.output import Output, Progress

__all__ = ["calibrated", "chosen_layers"]

_CALIBRATION_ROWS = 64
_BATCH_ROWS = 256
_TABLE = "mixed.json"
_SLOW = {"adaround"}  # learned anew for each trial; the final model has it


def calibrated(loaded: Loaded, floating: nn.Module, scheme: Scheme) -> QuantizedModel:
    """The model quantized from the recipe's calibration rows.

    Raises:
        InputError: there are none.
    """
    if loaded.calibration is None:
        raise InputError(
            "there are no calibration rows",
            where=f"{loaded.file.path}: data.calibration",
            remedy="add data.train, or name data there",
        )
    batches = loaded.calibration.batches(_CALIBRATION_ROWS)
    rows = [as_tensors(batch) for batch in batches]
    return calibrate(floating, example_inputs(loaded.file.recipe.input), rows, scheme)


def chosen_layers(
    loaded: Loaded,
    floating: nn.Module,
    outputs: dict[str, Outputs],
    scheme: Scheme,
    keys: Keys,
    kept: Cache,
    output: Output,
) -> tuple[LayerChoice, ...]:
    """What `quantize.mixed` decides of every layer; nothing where the recipe does not ask.

    Args:
        floating: the model after the steps, as callers see it.
        outputs: of `source` and `floating`, for the evaluation set.
        scheme: what the recipe says without it.

    Raises:
        InputError: there are no calibration rows.
    """
    mixed = loaded.file.recipe.quantize.mixed
    if mixed is None:
        return ()

    def make() -> tuple[LayerChoice, ...]:
        search = _Search(loaded, floating, outputs, scheme, mixed)
        with output.progress("trying each layer alone") as progress:
            findings, steps = search.candidates(progress)
        with output.progress("raising layers") as progress:
            return choices(findings, search.raised(steps, progress))

    folder, _ = kept.entry(
        ["mixed", keys.quantized],
        lambda folder: _write(folder / _TABLE, make()),
    )
    return msgspec.json.decode((folder / _TABLE).read_bytes(), type=tuple[LayerChoice, ...])


def _write(path: Path, table: tuple[LayerChoice, ...]) -> None:
    path.write_bytes(msgspec.json.encode(table))


_Steps = dict[str, tuple[Step, ...]]


class _Search:
    """One model and its gate; knows how to try layers alone, and how to try them raised."""

    def __init__(
        self,
        loaded: Loaded,
        floating: nn.Module,
        outputs: dict[str, Outputs],
        scheme: Scheme,
        mixed: Mixed,
    ) -> None:
        self._loaded = replace(loaded, evaluation=loaded.validation)
        self._floating, self._mixed, self._scheme = floating, mixed, scheme
        self._outputs = outputs
        if loaded.validation is not loaded.evaluation:
            source = loaded.deployable(loaded.model)
            self._outputs = {
                "source": evaluate(self._loaded, source),
                "floating": evaluate(self._loaded, floating),
            }
        self._by_hand = loaded.file.recipe.quantize.layers
        self._quick = replace(
            scheme, refinements=tuple(one for one in scheme.refinements if one not in _SLOW)
        )

    def candidates(self, progress: Progress) -> tuple[tuple[Finding, ...], _Steps]:
        """Every layer alone; and where those may go that may be raised, the worst first."""
        loaded, mixed = self._loaded, self._mixed
        graph = calibrated(loaded, self._floating, replace(self._quick, raised=())).decided
        found = {site.layer: site for site in sites(graph)}
        trial = _Trial(loaded, self._floating, mixed.rows)

        def noise_at(layer: str, level: Level) -> float:
            progress.advance(1, f"{layer} in {level}")
            return trial(alone(graph, found[layer], level))[0]

        findings = []
        for site in found.values():
            progress.advance(1, site.layer)
            noise, effect = trial(alone(graph, site, "int8"))
            findings.append(Finding(site.layer, site.operation, noise, effect))
        free = [one for one in worst_first(findings, trial.doubt) if one.layer not in self._by_hand]
        allowed = mixed.levels or supported_levels(loaded.file.recipe.target.formats)
        ladder = [level for level in supported_levels(()) if level in allowed]
        most = min(math.floor(mixed.most * len(findings)), len(free) - 1)  # one stays in int8
        return tuple(findings), {
            one.layer: climb(one, findings, ladder, partial(noise_at, one.layer))
            for one in free[: max(0, most)]
        }

    def raised(self, candidates: _Steps, progress: Progress) -> dict[str, Step]:
        """What the fewest moves give with which the gate holds, or else all of them."""
        sequence = moves(candidates)

        def holds(count: int) -> bool:
            progress.advance(1, f"{count} of {len(sequence)}")
            if count == 0:
                return self._holds(self._scheme)
            layers = {layer: level for layer, (level, _) in sequence[:count]}
            raised = (*self._scheme.raised, *layers.items())
            return self._holds(replace(self._quick, raised=raised))

        count = fewest(len(sequence), holds)
        return dict(sequence[: len(sequence) if count is None else count])

    def _holds(self, scheme: Scheme) -> bool:
        loaded = self._loaded
        found = evaluate(loaded, calibrated(loaded, self._floating, scheme).module)
        first = loaded.signature.outputs[0].name
        labels = loaded.evaluation.labels  # the validation rows
        source, floating = self._outputs["source"], self._outputs["floating"]
        measured = Measured(
            accuracy_drop=loaded.metric(source, labels) - loaded.metric(found, labels),
            bytes_ratio=None,
            latency_ratio=None,
            agreement=agreement(source[first], found[first]),
            parity=0.0,
            snr_db=min(snr_db(floating[name], array) for name, array in found.items()),
        )
        return all(one.passed for one in judge(loaded.file.recipe.gate, measured).values())


class _Trial:
    """Some calibration rows, and what the model in floating point says of them."""

    def __init__(self, loaded: Loaded, floating: nn.Module, count: int) -> None:
        if loaded.calibration is None:
            raise InputError("there are no calibration rows", where="data.calibration")
        self._loaded = loaded
        self._rows = loaded.calibration.sample(count, seed=0)
        self._exact = self._answers(floating)
        self._points = loaded.metric(self._exact, self._rows.labels)

    def __call__(self, model: Callable[..., object]) -> tuple[float, float]:
        """The SNR of a model's outputs in dB, and the points that it loses."""
        given = self._answers(model)
        noise = min(snr_db(self._exact[name], array) for name, array in given.items())
        lost = self._points - self._loaded.metric(given, self._rows.labels)
        return round(noise, 3), round(lost, 4)

    @property
    def doubt(self) -> float:
        """The standard error of a share like the metric's over so many rows, in points."""
        share = min(max(self._points / 100, 0.0), 1.0)
        rows = len(self._rows)
        return 100 * math.sqrt(max(share * (1 - share), 1 / rows) / rows)

    def _answers(self, model: Callable[..., object]) -> Outputs:
        batches = list(self._rows.batches(_BATCH_ROWS))
        return run(model, batches, self._loaded.signature.outputs)
