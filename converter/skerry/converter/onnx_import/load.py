"""Reading an ONNX file, which is not trusted: sizes, shapes and paths are checked before anything
is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from skerry.converter.onnx_import.build import build
from skerry.converter.onnx_import.dtypes import element_type
from skerry.converter.onnx_import.module import OnnxModule
from skerry.converter.onnx_import.rewrite import say_flatten
from skerry.devices.errors import InputError, UnsupportedError
from skerry.devices.files import confined

__all__ = ["ImportLimits", "import_onnx"]

# What a file that parses but makes no sense runs into.
_MALFORMED = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
)
# The operator set since which an operator means what is computed here; types apart.
_MEANT_SINCE = {
    **dict.fromkeys(["Hardmax", "LogSoftmax", "Softmax", "Split"], 13),
    **dict.fromkeys(["Dropout"], 12),
    **dict.fromkeys(["Clip", "OneHot", "Pad", "Resize"], 11),
    **dict.fromkeys(["Slice", "TopK"], 10),
    **dict.fromkeys(["BatchNormalization", "Cast", "Scan", "Upsample"], 9),
    **dict.fromkeys(["Expand", "MaxPool", "Max", "Mean", "Min", "Sum"], 8),
    **dict.fromkeys(
        ["Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Sub", "Xor"], 7
    ),
    **dict.fromkeys(["AveragePool", "GRU", "Gemm", "LSTM", "PRelu", "Pow", "RNN", "Reshape"], 7),
    "Tile": 6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportLimits:
    """What a model may be.

    Attributes:
        file_bytes: the size of the model file.
        weight_bytes: all initializers together, external ones too.
        max_elements: elements of one tensor, declared or computed.
        max_nodes: nodes, those of subgraphs too.
    """

    file_bytes: int = 2 << 30
    weight_bytes: int = 8 << 30
    max_elements: int = 1 << 30
    max_nodes: int = 200_000


def import_onnx(source: Path | ModelProto, limits: ImportLimits | None = None) -> OnnxModule:
    """An ONNX model as a trainable module.

    Args:
        source: the file, or a model whose tensors are inside it.

    Returns:
        A module in eval mode, whose forward takes the graph's inputs by position and gives its
        output, or a tuple of them.

    Raises:
        InputError: malformed, over a limit, or with external data outside the file's folder.
        UnsupportedError: operators, element types or an operator set not known here; every missing
            operator is named. Operator sets below 13 are read where their operators' meaning
            has not changed since.
    """
    limits = limits or ImportLimits()
    folder = source.parent if isinstance(source, Path) else None
    where = str(source) if isinstance(source, Path) else "model"
    model = _read(source, limits) if isinstance(source, Path) else _copied(source)
    try:
        return _import(model, folder, limits, where)
    except _MALFORMED as error:
        raise InputError(f"a malformed model: {error}", where=where) from error


def _import(model: ModelProto, folder: Path | None, limits: ImportLimits, where: str) -> OnnxModule:
    opset = _opset(model, where)
    if model.functions:
        _check_functions(model, limits, where)
        model = onnx.inliner.inline_local_functions(model)
    _check_size(model, limits, where)
    _Weights(folder, limits, where).settle(model.graph)
    say_flatten(model)
    return build(model.graph, opset, where, limits.max_elements)


def _copied(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _read(path: Path, limits: ImportLimits) -> ModelProto:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path) from error
    if not 0 < size <= limits.file_bytes:
        raise InputError(f"{size} bytes, where 1 to {limits.file_bytes} are accepted", where=path)
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"not an ONNX model: {error}", where=path) from error
    if not model.graph.node and not model.graph.output:
        raise InputError("not an ONNX model: it has no graph", where=path)
    return model


def _opset(model: ModelProto, where: str) -> int:
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    version = max(versions, default=0)
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= version <= newest:
        raise UnsupportedError(
            f"operator set {version}, where those up to {newest} are known", where=where
        )
    changed = {
        node.op_type for node in _nodes(model.graph) if version < _MEANT_SINCE.get(node.op_type, 1)
    }
    if changed:
        raise UnsupportedError(
            f"operator set {version} means something else by {', '.join(sorted(changed))}",
            where=where,
            remedy="convert the model to operator set 13 or newer with onnx.version_converter",
        )
    return version


def _check_functions(model: ModelProto, limits: ImportLimits, where: str) -> None:
    """Refuse functions that call themselves, and calls that unfold to too many nodes."""
    functions = {(item.domain, item.name): item for item in model.functions}
    counts: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()

    def count(nodes: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += unfolded(key) if key in functions else 1
            for attribute in node.attribute:
                total += count(attribute.g.node)
        return total

    def unfolded(key: tuple[str, str]) -> int:
        if key in open_calls:
            raise InputError(f"the function {key[1]!r} calls itself", where=where)
        if key not in counts:
            open_calls.add(key)
            counts[key] = count(functions[key].node)
            open_calls.remove(key)
        return counts[key]

    total = count(model.graph.node)
    if total > limits.max_nodes:
        raise InputError(f"{total} nodes, where {limits.max_nodes} are accepted", where=where)


def _check_size(model: ModelProto, limits: ImportLimits, where: str) -> None:
    count = sum(1 for _ in _nodes(model.graph))
    if count > limits.max_nodes:
        raise InputError(f"{count} nodes, where {limits.max_nodes} are accepted", where=where)
    for item in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        lengths = [axis.dim_value for axis in item.type.tensor_type.shape.dim]
        if any(length < 0 for length in lengths) or (
            prod(max(length, 1) for length in lengths) > limits.max_elements
        ):
            raise InputError(
                f"the shape {lengths} is not acceptable", where=f"{where}: {item.name}"
            )


def _nodes(graph: GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


class _Weights:
    """Checks every tensor of a model and brings external ones in."""

    def __init__(self, folder: Path | None, limits: ImportLimits, where: str) -> None:
        self._folder = folder
        self._limits = limits
        self._where = where
        self._total = 0

    def settle(self, graph: GraphProto) -> None:
        """Make every tensor of `graph` and its subgraphs checked and internal."""
        for tensor in graph.initializer:
            self._tensor(tensor)
        if graph.sparse_initializer:
            raise UnsupportedError("sparse initializers are not supported", where=self._where)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    self._tensor(attribute.t)
                elif attribute.type == AttributeProto.GRAPH:
                    self.settle(attribute.g)

    def _tensor(self, tensor: TensorProto) -> None:
        where = f"{self._where}: {tensor.name}"
        if tensor.data_type == TensorProto.STRING:
            raise UnsupportedError("tensors of strings are not supported", where=where)
        kind = element_type(tensor.data_type, where)
        if any(length < 0 for length in tensor.dims):
            raise InputError(f"the shape {list(tensor.dims)} is not acceptable", where=where)
        count = prod(tensor.dims)
        size = (count * (kind.bits or kind.numpy.itemsize * 8) + 7) // 8
        self._total += size
        if count > self._limits.max_elements or self._total > self._limits.weight_bytes:
            raise InputError(f"a tensor of shape {list(tensor.dims)} is too large", where=where)
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = self._external(tensor, size, where)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
        elif tensor.HasField("raw_data"):
            if len(tensor.raw_data) != size:
                raise InputError(f"{len(tensor.raw_data)} bytes for {size}", where=where)
        elif _typed_values(tensor) < min(count, 1):
            raise InputError(f"no values for the shape {list(tensor.dims)}", where=where)

    def _external(self, tensor: TensorProto, size: int, where: str) -> bytes:
        if self._folder is None:
            raise InputError("external data of a model that came without its file", where=where)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = confined(self._folder, entries.get("location", ""))
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(size)))
        except ValueError as error:
            raise InputError("external data with an odd offset or length", where=where) from error
        try:
            available = path.stat().st_size
            if length != size or offset < 0 or offset + size > available:
                raise InputError(
                    f"external data of {length} bytes at {offset} for {size}", where=where
                )
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=path) from error


def _typed_values(tensor: TensorProto) -> int:
    return max(
        len(tensor.float_data),
        len(tensor.int32_data),
        len(tensor.int64_data),
        len(tensor.double_data),
        len(tensor.uint64_data),
    )
