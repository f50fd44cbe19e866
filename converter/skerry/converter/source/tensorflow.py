"""Keras and TensorFlow models, by way of ONNX: tf2onnx writes the graph, our importer reads it.

Keras files are loaded in safe mode, which refuses code in them. A SavedModel's serving signature is
frozen in a session of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from skerry.converter.onnx_import import import_onnx
from skerry.converter.source.finite import check_finite
from skerry.converter.source.onnx import graph_inputs
from skerry.devices.errors import InputError, MissingExtraError, UnsupportedError

__all__ = ["GraphSource", "KerasSource", "SavedModelSource"]

_OPSET = 18
_SIGNATURE = "serving_default"


class GraphSource:
    """`ModelSource` of what becomes an ONNX graph first; the graph is made once."""

    kind = "tensorflow"

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return self._path.name

    def materials(self) -> Mapping[str, Path]:
        if self._path.is_file():
            return {self._path.name: self._path}
        files = sorted(path for path in self._path.rglob("*") if path.is_file())
        return {f"{self._path.name}/{p.relative_to(self._path).as_posix()}": p for p in files}

    def inputs(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of one row of each input; 0 where a length is open."""
        return graph_inputs(self._graph)

    def module(self) -> nn.Module:
        model = import_onnx(self._graph).eval()
        check_finite(model, self._path)
        return model

    @cached_property
    def _graph(self) -> onnx.ModelProto:
        try:
            return self._export()
        except ImportError as error:
            raise MissingExtraError(
                "tensorflow", missing=error.name or "tensorflow", needed_by=str(self._path)
            ) from error
        except (InputError, UnsupportedError):
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"cannot be converted: {reason}",
                where=self._path,
                remedy="see that TensorFlow loads it and that it has no custom layers",
            ) from error

    def _export(self) -> onnx.ModelProto:
        raise NotImplementedError


class KerasSource(GraphSource):
    """`ModelSource` of a `.keras` or legacy `.h5` file. Inputs are in the model's order."""

    kind = "keras"

    def _export(self) -> onnx.ModelProto:
        import keras
        import tensorflow

        class DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]  # ships no types
            """Files of Keras 2 give it `groups`, which it never had."""

            def __init__(self, *arguments: Any, groups: int = 1, **named: Any) -> None:
                if groups != 1:
                    raise UnsupportedError(f"a depthwise convolution of {groups} groups")
                super().__init__(*arguments, **named)

        custom = {"DepthwiseConv2D": DepthwiseConv2D} if self._path.suffix == ".h5" else None
        model = keras.models.load_model(self._path, compile=False, custom_objects=custom)
        wanted = [
            tensorflow.TensorSpec((None, *one.shape[1:]), one.dtype, name=f"input_{number}")
            for number, one in enumerate(model.inputs)
        ]

        def answer(*rows: Any) -> Any:
            return model(list(rows) if len(rows) > 1 else rows[0], training=False)

        return _traced(answer, wanted)


class SavedModelSource(GraphSource):
    """`ModelSource` of a SavedModel folder: its signature `serving_default`, inputs by name."""

    kind = "savedmodel"

    def _export(self) -> onnx.ModelProto:
        import tensorflow

        try:
            loaded = tensorflow.saved_model.load(str(self._path))
        except AttributeError:  # objects of an optimizer that Keras 3 no longer has
            return self._frozen()
        function = self._signature(loaded.signatures)
        wanted = function.structured_input_signature[1]
        inputs, outputs = sorted(wanted), sorted(function.structured_outputs)

        def answer(*rows: Any) -> Any:
            found = function(**dict(zip(inputs, rows, strict=True)))
            return [found[name] for name in outputs]

        return _traced(answer, [wanted[name] for name in inputs])

    def _frozen(self) -> onnx.ModelProto:
        """The graph of the signature alone, its variables made constants."""
        import tensorflow
        import tf2onnx
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_from_session_graph as freeze,
        )

        v1 = tensorflow.compat.v1
        graph = tensorflow.Graph()
        with graph.as_default(), v1.Session(graph=graph) as session:
            meta = v1.saved_model.loader.load(session, ["serve"], str(self._path))
            signature = self._signature(meta.signature_def)
            inputs = [signature.inputs[name].name for name in sorted(signature.inputs)]
            outputs = [signature.outputs[name].name for name in sorted(signature.outputs)]
            nodes = [name.partition(":")[0] for name in outputs]
            frozen = freeze(session, graph.as_graph_def(), nodes)
        made: tuple[onnx.ModelProto, Any] = tf2onnx.convert.from_graph_def(
            frozen, input_names=inputs, output_names=outputs, opset=_OPSET
        )
        return made[0]

    def _signature(self, signatures: Mapping[str, Any]) -> Any:
        if _SIGNATURE not in signatures:
            raise InputError(
                f"has no signature {_SIGNATURE!r}",
                where=self._path,
                remedy=f"it has: {', '.join(sorted(signatures)) or 'none'}",
            )
        return signatures[_SIGNATURE]


def _traced(function: Any, wanted: list[Any]) -> onnx.ModelProto:
    """A Python function over tensors as an ONNX graph."""
    import tensorflow
    import tf2onnx

    traced = tensorflow.function(function)
    made: tuple[onnx.ModelProto, Any] = tf2onnx.convert.from_function(
        traced, input_signature=wanted, opset=_OPSET
    )
    return made[0]
