"""Store a Core ML program's weights in fewer bits, by coremltools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from threadpoolctl import threadpool_limits

from skerry.converter.quantize.weights import BLOCK

__all__ = ["COMPRESSED", "NEWEST", "compressed_weights"]

_SMALLEST = 64  # elements; below this scales and tables cost more than they save

# Precisions that coremltools compresses a float program to.
COMPRESSED = (
    "int8-weights",
    "int4-weights",
    "palette6-weights",
    "palette4-weights",
    "sparse-weights",
    "sparse-int8-weights",
    "sparse-palette4-weights",
)
# Those that need operators of iOS 18.
NEWEST = ("int4-weights", "sparse-int8-weights", "sparse-palette4-weights")


def compressed_weights(model: Any, precision: str, sparsity: float) -> Any:
    """The program with the weights of its layers stored as `precision` says.

    Args:
        model: an MLModel in float32. Where weights are integers they lie on their grid already.
        precision: one of `COMPRESSED`. Palettes are look-up tables of k-means, one for a weight
            (Han et al. 2016, Deep Compression); sparse ones keep a mask and what is not zero, and
            the two joined compress what is kept.
        sparsity: share of each weight's elements, the smallest, that become zero in sparse ones.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        from coremltools.optimize import coreml

        joint = precision.startswith("sparse-")
        if joint:
            pruner = coreml.OpMagnitudePrunerConfig(
                target_sparsity=sparsity, weight_threshold=_SMALLEST
            )
            model = coreml.prune_weights(model, coreml.OptimizationConfig(global_config=pruner))
        if "palette" in precision:
            bits = 6 if "palette6" in precision else 4
            palette = coreml.OpPalettizerConfig(
                mode="kmeans", nbits=bits, weight_threshold=_SMALLEST
            )
            config = coreml.OptimizationConfig(global_config=palette)
            with threadpool_limits(1):  # sums of several threads differ from run to run
                return coreml.palettize_weights(model, config, joint_compression=joint)
        if "int" not in precision:
            return model
        config = _integers(coreml, blocks=precision == "int4-weights")
        return coreml.linear_quantize_weights(model, config, joint_compression=joint)


def _integers(coreml: Any, *, blocks: bool) -> Any:
    """int8 by channels; of linear layers int4 by blocks, if asked for."""
    channels = coreml.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", weight_threshold=_SMALLEST
    )
    config = coreml.OptimizationConfig(global_config=channels)
    if blocks:
        config.set_op_type(
            "linear",
            coreml.OpLinearQuantizerConfig(
                mode="linear_symmetric",
                dtype="int4",
                granularity="per_block",
                block_size=BLOCK,
                weight_threshold=_SMALLEST,
            ),
        )
    return config
