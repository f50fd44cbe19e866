"""ONNX files, brought in by our own importer as a module that can be trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from skerry.converter.onnx_import import import_onnx
from skerry.converter.source.finite import check_finite

__all__ = ["OnnxSource"]


class OnnxSource:
    """`ModelSource` of an ONNX file. Inputs are in the graph's order."""

    kind = "onnx"

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return self._path.name

    def materials(self) -> Mapping[str, Path]:
        return {self._path.name: self._path}

    def module(self) -> nn.Module:
        model = import_onnx(self._path).eval()
        check_finite(model, self._path)
        return model
