"""Core ML packages made for tests: from PyTorch modules, and from MIL programs written out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import torch
from coremltools.converters.mil.mil import Builder
from torch import Tensor, nn

from skerry.converter.coreml_exec import MilProgram


def save(model: Any, folder: Path) -> MilProgram:
    """Write a converted model and load it."""
    path = folder / "model.mlpackage"
    model.save(str(path))
    return MilProgram.load(path)


def from_export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    folder: Path,
    *,
    half: bool = False,
    target: Any = None,
) -> MilProgram:
    """`module` by way of torch.export, as fp32 or fp16."""
    program = torch.export.export(module.eval(), example).run_decompositions({})
    return save(_convert(program, half, target), folder)


def from_trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    folder: Path,
    *,
    half: bool = False,
    target: Any = None,
) -> MilProgram:
    """`module` by way of torch.jit.trace, which coremltools needs for recurrent layers."""
    inputs = [ct.TensorType(shape=tuple(x.shape)) for x in example]
    program = torch.jit.trace(module.eval(), example)
    return save(_convert(program, half, target, inputs=inputs), folder)


def from_mil(
    function: Callable[..., Any], shapes: list[tuple[int, ...]], folder: Path, target: Any = None
) -> MilProgram:
    """A program written with coremltools' builder, unoptimised, inputs fp32."""
    target = target or ct.target.iOS18
    specs = [Builder.TensorSpec(shape=shape) for shape in shapes]
    program = Builder.program(input_specs=specs, opset_version=target)(function)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=target,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    return save(model, folder)


def _convert(program: Any, half: bool, target: Any, **more: Any) -> Any:
    return ct.convert(
        program,
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        minimum_deployment_target=target or ct.target.iOS17,
        skip_model_load=True,
        **more,
    )
