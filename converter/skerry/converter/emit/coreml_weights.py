"""Store a Core ML program's weights as integers, by coremltools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from skerry.converter.quantize.weights import BLOCK

__all__ = ["integer_weights"]

_SMALLEST = 64  # elements; below this scales cost more than integers save


def integer_weights(model: Any, precision: str) -> Any:
    """The program with the weights of its layers stored as `precision` says.

    Args:
        model: an MLModel in float32 whose weights lie on their grid already.
        precision: `int8-weights` or `int4-weights` (linear layers by blocks, the rest int8).
    """
    with contextlib.redirect_stderr(io.StringIO()):
        from coremltools.optimize import coreml

        channels = coreml.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", weight_threshold=_SMALLEST
        )
        config = coreml.OptimizationConfig(global_config=channels)
        if precision == "int4-weights":
            blocks = coreml.OpLinearQuantizerConfig(
                mode="linear_symmetric",
                dtype="int4",
                granularity="per_block",
                block_size=BLOCK,
                weight_threshold=_SMALLEST,
            )
            config.set_op_type("linear", blocks)
        return coreml.linear_quantize_weights(model, config)
