"""Weights that coremltools compressed, against what coremltools says they decompress to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fakes.mlpackage import save

_TARGETS = {"iOS16": ct.target.iOS16, "iOS18": ct.target.iOS18}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 32, 3, padding=1)
        self.wide = nn.Linear(64, 96)
        self.head = nn.Linear(96, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x)).mean(3).flatten(1)[:, :64]
        return self.head(torch.relu(self.wide(y)))


def _config(op: Any) -> Any:
    return cto.OptimizationConfig(global_config=op)


def _linear(**options: Any) -> Callable[[Any], Any]:
    op = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=16, **options)
    return lambda model: cto.linear_quantize_weights(model, _config(op))


def _palette(**options: Any) -> Callable[[Any], Any]:
    op = cto.OpPalettizerConfig(mode="kmeans", weight_threshold=16, **options)
    return lambda model: cto.palettize_weights(model, _config(op))


def _prune(model: Any) -> Any:
    op = cto.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=16)
    return cto.prune_weights(model, _config(op))


_SCHEMES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "int8": ("iOS16", _linear(dtype="int8")),
    "uint8": (
        "iOS16",
        lambda model: cto.linear_quantize_weights(
            model,
            _config(cto.OpLinearQuantizerConfig(mode="linear", dtype="uint8", weight_threshold=16)),
        ),
    ),
    "int8_newer": ("iOS18", _linear(dtype="int8")),
    "int4_blocks": ("iOS18", _linear(dtype="int4", granularity="per_block", block_size=8)),
    "uint4_blocks": ("iOS18", _linear(dtype="uint4", granularity="per_block", block_size=16)),
    "palette_4": ("iOS16", _palette(nbits=4)),
    "palette_6": ("iOS16", _palette(nbits=6)),
    "palette_3_grouped": (
        "iOS18",
        _palette(nbits=3, granularity="per_grouped_channel", group_size=8),
    ),
    "palette_vectors": ("iOS18", _palette(nbits=4, cluster_dim=2)),
    "sparse": ("iOS16", _prune),
    "sparse_newer": ("iOS18", _prune),
    "sparse_int8": (
        "iOS18",
        lambda model: cto.linear_quantize_weights(
            _prune(model),
            _config(cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=16)),
            joint_compression=True,
        ),
    ),
    "sparse_palette": (
        "iOS18",
        lambda model: cto.palettize_weights(
            _prune(model),
            _config(cto.OpPalettizerConfig(mode="kmeans", nbits=4, weight_threshold=16)),
            joint_compression=True,
        ),
    ),
}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    torch.manual_seed(0)
    program = torch.export.export(Net().eval(), (torch.randn(1, 8, 6, 6),)).run_decompositions({})
    return {
        name: ct.convert(
            program,
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=target,
            skip_model_load=True,
        )
        for name, target in _TARGETS.items()
    }


@pytest.mark.parametrize("scheme", sorted(_SCHEMES))
def test_a_compressed_program_is_its_decompressed_one(
    scheme: str, models: dict[str, Any], tmp_path: Path
) -> None:
    target, compress = _SCHEMES[scheme]
    small = compress(models[target])
    dense = cto.decompress_weights(small)
    kinds = {op.op_type for op in small._mil_program.functions["main"].operations}
    assert any(kind.startswith("constexpr_") for kind in kinds)
    rows = np.random.default_rng(0).standard_normal((3, 8, 6, 6)).astype(np.float32)
    results = []
    for name, model in (("small", small), ("dense", dense)):
        (tmp_path / name).mkdir()
        program = save(model, tmp_path / name)
        (found,) = program.run({program.inputs[0].name: rows}).values()
        results.append(found)
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)
