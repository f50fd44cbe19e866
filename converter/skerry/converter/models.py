"""The models of a conversion: the source's, the trained one, the quantized one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec
from torch import nn

from skerry.converter.cache import Cache
from skerry.converter.graph import as_tensors
from skerry.converter.histograms import Histogram, histograms
from skerry.converter.keys import Keys
from skerry.converter.layers import LayerNoise, layer_noise
from skerry.converter.loading import Loaded
from skerry.converter.mixed import LayerChoice
from skerry.converter.proof import Outputs, not_finite
from skerry.converter.quantize import QuantizedModel, Scheme
from skerry.converter.quantized_training import QuantizedTraining
from skerry.converter.raising import calibrated, chosen_layers
from skerry.converter.recipe import Recipe
from skerry.converter.steps.base import StepRecord
from skerry.converter.training import Trainer, evaluate
from skerry.devices.errors import InputError
from skerry.devices.output import Output
from skerry.devices.targets import TARGETS

__all__ = ["INT8", "SOURCE_PRECISION", "Models", "quantize", "scheme_of"]

INT8 = "int8"
SOURCE_PRECISION = "fp32"
_NOISE_ROWS = 64
_SEEN = "seen.json"


@dataclass(frozen=True)
class Models:
    """The models, as callers see them, and what each says of the evaluation set.

    Attributes:
        source: as the user brought it.
        floating: after the steps.
        quantized: gives the fake-quantized one; it is made when it is first asked for.
        trained: `floating` without pre- and post-processing.
        outputs: of `source`, `floating` and, where int8 is asked for, `quantized`.
        layers: the noise of quantization at every layer, where int8 is asked for.
        histograms: what calibration saw of every activation, likewise.
        chosen: the level of every layer, where the recipe asks for mixed precision.
        steps: what each step did.
    """

    source: nn.Module
    floating: nn.Module
    quantized: Callable[[], QuantizedModel]
    trained: nn.Module
    outputs: dict[str, Outputs]
    layers: tuple[LayerNoise, ...]
    histograms: tuple[Histogram, ...]
    chosen: tuple[LayerChoice, ...]
    steps: tuple[StepRecord, ...] = ()

    def named(self, whose: str) -> nn.Module | QuantizedModel:
        """The model called `source`, `floating` or `quantized`."""
        if whose == "quantized":
            return self.quantized()
        return self.source if whose == "source" else self.floating

    @staticmethod
    def of_precision(precision: str) -> str:
        """Which model artifacts of this precision are emitted from."""
        return "quantized" if precision == INT8 else "floating"


def scheme_of(recipe: Recipe) -> Scheme:
    """How to quantize: what the recipe asks for, within what its profile's hardware can use."""
    wanted, target = recipe.quantize, TARGETS[recipe.target.profile]
    return Scheme(
        calibrator=wanted.calibrator,
        per_channel=wanted.per_channel and target.per_channel,
        reduce_range=target.weight_bits == 7,
        refinements=wanted.refinements,
        raised=tuple(wanted.layers.items()),
    )


def quantize(loaded: Loaded, trainer: Trainer, keys: Keys, kept: Cache, output: Output) -> Models:
    """Decide the quantization, once for every format, where the recipe asks for one.

    Raises:
        InputError: it asks for one, and there are no rows to calibrate on; or the source gives
            values that are not finite.
    """
    recipe = loaded.file.recipe
    scheme = scheme_of(recipe)
    chosen: tuple[LayerChoice, ...] = ()
    source = loaded.deployable(loaded.model)
    with output.progress("running the source"):
        outputs = {"source": kept.arrays(keys.outputs("source"), lambda: evaluate(loaded, source))}
    if problem := not_finite(outputs["source"]):
        raise InputError(
            problem, where=loaded.source.name, remedy="correct the model, or the evaluation rows"
        )
    trained = trainer.model()
    floating = loaded.deployable(trained)

    @cache
    def begun() -> QuantizedModel:
        raised = tuple((one.layer, one.level) for one in chosen if one.level != "int8")
        return calibrated(loaded, floating, replace(scheme, raised=(*scheme.raised, *raised)))

    aware = None
    if recipe.qat is not None:
        aware = QuantizedTraining(recipe.qat, trainer, begun, trained)

    @cache
    def quantized() -> QuantizedModel:
        return begun() if aware is None else aware.model(loaded, keys, kept, output)

    outputs["floating"] = outputs["source"]
    if recipe.float_steps:
        with output.progress("running the model"):
            found = kept.arrays(keys.outputs("floating"), lambda: evaluate(loaded, floating))
            outputs["floating"] = found
    steps = trainer.records()
    seen = _Seen((), ())
    if INT8 in recipe.quantize.precisions:
        chosen = chosen_layers(loaded, floating, outputs, scheme, keys, kept, output)
        if aware is not None:
            steps += (aware.record(loaded, keys, kept, output),)
        with output.progress("quantizing"):
            outputs["quantized"] = kept.arrays(
                keys.outputs("quantized"), lambda: evaluate(loaded, quantized().module)
            )
            seen = _seen(loaded, quantized, keys, kept)
    return Models(
        source,
        floating,
        quantized,
        trained,
        outputs,
        seen.layers,
        seen.histograms,
        chosen,
        steps,
    )


class _Seen(msgspec.Struct, frozen=True):
    """What is noted down of a quantized model for people."""

    layers: tuple[LayerNoise, ...]
    histograms: tuple[Histogram, ...]


def _seen(
    loaded: Loaded, quantized: Callable[[], QuantizedModel], keys: Keys, kept: Cache
) -> _Seen:
    def write(folder: Path) -> None:
        rows = loaded.evaluation.rows(slice(0, _NOISE_ROWS)).inputs
        noise = layer_noise(quantized(), as_tensors(rows))
        found = _Seen(noise, histograms(quantized()))
        (folder / _SEEN).write_bytes(msgspec.json.encode(found))

    folder, _ = kept.entry(["seen", *keys.outputs("quantized")], write)
    return msgspec.json.decode((folder / _SEEN).read_bytes(), type=_Seen)
