"""Store a TFLite file's weights as integers, by ai-edge-quantizer."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

from skerry.converter.emit.tflite_edit import linear_layers
from skerry.converter.quantize.weights import BLOCK
from skerry.devices.errors import UnsupportedError

__all__ = ["integer_weights"]


def integer_weights(content: bytes, precision: str) -> bytes:
    """The file with the weights of its layers stored as `precision` says.

    Args:
        content: a float32 file whose weights lie on their grid already.
        precision: `int8-dynamic`, `int8-weights` or `int4-weights`.
    """
    from ai_edge_quantizer import quantizer

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            work = quantizer.Quantizer(content)
            for scope, operation, config in _configs(content, precision):
                work.update_quantization_recipe(scope, operation, config)
            result = work.quantize(enable_progress_report=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UnsupportedError(
            f"cannot store the weights of this model so: {str(error).splitlines()[0]}",
            where=f"tflite-{precision}",
            remedy="choose another precision for TFLite",
        ) from error
    return bytes(result.quantized_model)


def _configs(content: bytes, precision: str) -> list[tuple[str, Any, Any]]:
    """What to do with which operations: a pattern of result names, a kind, a configuration."""
    from ai_edge_quantizer import qtyping

    def weights(bits: int, granularity: Any, *, dynamic: bool) -> Any:
        precisions = qtyping.ComputePrecision
        return qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=bits, symmetric=True, granularity=granularity
            ),
            compute_precision=precisions.INTEGER if dynamic else precisions.FLOAT,
            explicit_dequantize=not dynamic,
        )

    operations, grains = qtyping.TFLOperationName, qtyping.QuantGranularity
    channels = weights(8, grains.CHANNELWISE, dynamic=precision == "int8-dynamic")
    chosen = [(".*", operations.ALL_SUPPORTED, channels)]
    if precision == "int4-weights":
        blocks = weights(4, getattr(grains, f"BLOCKWISE_{BLOCK}"), dynamic=True)
        for name, length in linear_layers(content):
            if length % BLOCK == 0:
                chosen.append((f"^{re.escape(name)};", operations.FULLY_CONNECTED, blocks))
    return chosen
