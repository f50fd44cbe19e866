"""A MIL function as values: blocks of operations whose constants are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skerry.converter.coreml_exec.dtypes import ElementType, element_type
from skerry.converter.coreml_exec.package import Package, from_bytes
from skerry.devices.errors import BundleError, UnsupportedError

__all__ = [
    "Block",
    "Literal",
    "Named",
    "Operation",
    "Reference",
    "TensorType",
    "read_function",
]


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value. `shape` has -1 where a length is free; None where the rank is."""

    kind: ElementType
    shape: tuple[int, ...] | None
    state: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """A value an operation or block defines. `type` is None where it is no tensor."""

    name: str
    type: TensorType | None


@dataclass(frozen=True, slots=True)
class Reference:
    """An argument that another operation computes."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """An argument written into the program."""

    value: Tensor | str | tuple[str, ...]


_Argument = tuple[Reference | Literal, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One MIL operation.

    Attributes:
        kind: the operator's name.
        where: the file and the name of its first output, for errors.
        arguments: by parameter; several values where the parameter takes a tuple.
        outputs: what it defines.
        blocks: nested blocks of control flow.
    """

    kind: str
    where: str
    arguments: Mapping[str, _Argument]
    outputs: tuple[Named, ...]
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Operations in the order they run, and the names of what they yield.

    Attributes:
        constants: what was computed of it once, by name.
    """

    inputs: tuple[Named, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)


def read_function(function: Any, package: Package, max_elements: int) -> Block:
    """A protobuf `Function` as a block whose inputs are the function's.

    Raises:
        BundleError: malformed, or a tensor of more than `max_elements`.
        UnsupportedError: an element type or kind of value that is not computed with here.
    """
    specializations = function.block_specializations
    if function.opset not in specializations:
        raise BundleError(f"no block for its opset {function.opset!r}", where=package.path)
    reader = _Reader(package, max_elements)
    inputs = tuple(reader.named(item) for item in function.inputs)
    block = reader.block(specializations[function.opset])
    return Block(inputs, block.operations, block.outputs)


class _Reader:
    """Turns protobuf messages of one package into values."""

    def __init__(self, package: Package, max_elements: int) -> None:
        self._package = package
        self._max_elements = max_elements

    def block(self, block: Any) -> Block:
        return Block(
            tuple(self.named(item) for item in block.inputs),
            tuple(self._operation(item) for item in block.operations),
            tuple(block.outputs),
        )

    def named(self, item: Any) -> Named:
        return Named(item.name, self._type(item.type, f"{self._package.path}: {item.name}"))

    def _operation(self, item: Any) -> Operation:
        name = item.outputs[0].name if item.outputs else item.type
        where = f"{self._package.path}: {name}"
        arguments: dict[str, _Argument] = {
            key: tuple(self._binding(binding, where) for binding in argument.arguments)
            for key, argument in item.inputs.items()
        }
        for key, value in item.attributes.items():
            if key != "name":
                arguments[key] = (Literal(self._value(value, where)),)
        return Operation(
            item.type,
            where,
            arguments,
            tuple(self.named(output) for output in item.outputs),
            tuple(self.block(block) for block in item.blocks),
        )

    def _binding(self, binding: Any, where: str) -> Reference | Literal:
        if binding.WhichOneof("binding") == "name":
            return Reference(binding.name)
        return Literal(self._value(binding.value, where))

    def _type(self, value: Any, where: str) -> TensorType | None:
        state = value.WhichOneof("type") == "stateType"
        if state:
            value = value.stateType.wrappedType
        if value.WhichOneof("type") != "tensorType" or value.tensorType.dataType == _STRING:
            return None
        tensor = value.tensorType
        kind = element_type(tensor.dataType, where)
        if tensor.rank < 0 or any(d.unknown.variadic for d in tensor.dimensions):
            return TensorType(kind, None, state)
        shape = tuple(
            d.constant.size if d.WhichOneof("dimension") == "constant" else -1
            for d in tensor.dimensions
        )
        if prod(max(length, 1) for length in shape) > self._max_elements:
            raise BundleError(
                f"a tensor of shape {shape} has more than {self._max_elements} elements",
                where=where,
            )
        return TensorType(kind, shape, state)

    def _value(self, value: Any, where: str) -> Tensor | str | tuple[str, ...]:
        if value.type.WhichOneof("type") != "tensorType":
            raise UnsupportedError("a constant that is no tensor is not supported", where=where)
        if value.type.tensorType.dataType == _STRING:
            strings = tuple(value.immediateValue.tensor.strings.values)
            return strings[0] if len(strings) == 1 else strings
        kind = self._type(value.type, where)
        if kind is None or kind.shape is None or -1 in kind.shape:
            raise BundleError("a constant without a fixed shape", where=where)
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            array = self._package.blob(blob.fileName, blob.offset, kind.kind, kind.shape)
        else:
            array = _immediate(value.immediateValue.tensor, kind.kind, kind.shape, where)
        return _tensor(array, kind.kind)


_STRING = 2
_FIELDS = {
    "floats": "floats",
    "ints": "ints",
    "bools": "bools",
    "longInts": "longInts",
    "doubles": "doubles",
}


def _immediate(
    tensor: Any, kind: ElementType, shape: tuple[int, ...], where: str
) -> np.ndarray[Any, Any]:
    """An array from a value written into the specification."""
    count = prod(shape)
    field = tensor.WhichOneof("value")
    if field == "bytes":
        data = tensor.bytes.values
        if len(data) * 8 < count * kind.bits:
            raise BundleError(f"{len(data)} bytes for {shape} {kind.name}", where=where)
        return from_bytes(data, kind, shape)
    values: Iterable[Any] = getattr(tensor, field).values if field in _FIELDS else ()
    array = np.array(list(values), kind.numpy)
    if array.size == 1 and count > 1:
        array = np.broadcast_to(array, count)
    if array.size != count:
        raise BundleError(f"{array.size} elements for the shape {shape}", where=where)
    return array.reshape(shape)


def _tensor(array: np.ndarray[Any, Any], kind: ElementType) -> Tensor:
    native = array.astype(array.dtype.newbyteorder("="))
    if native.dtype in (np.uint16, np.uint32):
        native = native.astype(np.int64)
    return torch.from_numpy(np.array(native)).to(kind.torch)
