"""ONNX files, brought in by our own importer as a module that can be trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from torch import nn

from skerry.converter.onnx_import import import_onnx
from skerry.converter.source.finite import check_finite
from skerry.devices.errors import InputError

__all__ = ["OnnxSource", "graph_inputs"]


def graph_inputs(model: onnx.ModelProto) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of one row of each input of a graph; 0 where a length is open."""
    weights = {one.name for one in model.graph.initializer}
    found = []
    for one in model.graph.input:
        if one.name in weights:
            continue
        tensor = one.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        row = tuple(int(axis.dim_value) for axis in tensor.shape.dim)[1:]
        found.append((one.name, dtype, row))
    return found


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

    def inputs(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of one row of each input; 0 where a length is open.

        Raises:
            InputError: the file is damaged.
        """
        try:
            return graph_inputs(onnx.load(self._path, load_external_data=False))
        except (OSError, DecodeError, ValueError) as error:
            raise InputError(f"cannot be read as ONNX: {error}", where=self._path) from error

    def module(self) -> nn.Module:
        model = import_onnx(self._path).eval()
        check_finite(model, self._path)
        return model
