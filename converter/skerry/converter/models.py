"""The models of a conversion: the source's, the trained one, the quantized one."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from skerry.converter.graph import as_tensors, example_inputs
from skerry.converter.loading import Loaded
from skerry.converter.proof import Outputs
from skerry.converter.quantize import QuantizedModel, Scheme, calibrate
from skerry.converter.training import evaluate
from skerry.devices.output import Output

__all__ = ["INT8", "SOURCE_PRECISION", "Models", "quantize"]

INT8 = "int8"
SOURCE_PRECISION = "fp32"
_CALIBRATION_ROWS = 64


@dataclass(frozen=True)
class Models:
    """The models, as callers see them, and what each says of the evaluation set.

    Attributes:
        source: as the user brought it.
        floating: after the steps.
        quantized: fake-quantized; None where no artifact is.
        trained: `floating` without pre- and post-processing.
        outputs: of `source`, `floating` and `quantized`, by that name.
    """

    source: nn.Module
    floating: nn.Module
    quantized: QuantizedModel | None
    trained: nn.Module
    outputs: dict[str, Outputs] = field(default_factory=dict)

    def for_precision(self, precision: str) -> tuple[str, nn.Module | QuantizedModel]:
        """The model that artifacts of this precision are emitted from, and its name."""
        if precision == INT8 and self.quantized is not None:
            return "quantized", self.quantized
        return "floating", self.floating


def quantize(loaded: Loaded, trained: nn.Module, output: Output) -> Models:
    """Decide the quantization, once for every format, where the recipe asks for one."""
    recipe = loaded.file.recipe
    source, floating = loaded.deployable(loaded.model), loaded.deployable(trained)
    with output.progress("running the source"):
        outputs = {"source": evaluate(loaded, source)}
        changed = bool(recipe.step)
        outputs["floating"] = evaluate(loaded, floating) if changed else outputs["source"]
    quantized = None
    if INT8 in recipe.quantize.precisions and loaded.calibration is not None:
        with output.progress("quantizing"):
            batches = loaded.calibration.batches(_CALIBRATION_ROWS)
            quantized = calibrate(
                floating,
                example_inputs(recipe.input),
                [as_tensors(batch) for batch in batches],
                Scheme(calibrator=recipe.quantize.calibrator),
            )
            outputs["quantized"] = evaluate(loaded, quantized.module)
    return Models(source, floating, quantized, trained, outputs)
