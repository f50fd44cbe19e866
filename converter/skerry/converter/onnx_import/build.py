"""From a checked graph to a module: analyse the constants and their users, choose layers, apply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from skerry.converter.onnx_import.analyse import (
    Uses,
    check_operators,
    is_host,
    is_trained,
    needs,
    uses_of,
    with_last_uses,
)
from skerry.converter.onnx_import.call import Host, Node
from skerry.converter.onnx_import.dtypes import BY_NUMBER, element_type, from_numpy
from skerry.converter.onnx_import.layers import choose_layer
from skerry.converter.onnx_import.module import OnnxModule, Program, Step, set_constant
from skerry.devices.errors import InputError, UnsupportedError
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["build"]

# Operators whose output has the element type of one of their inputs.
_TYPED_LIKE = {"CastLike": 1, "QuantizeLinear": 2}


def build(graph: GraphProto, opset: int, where: str, max_elements: int) -> OnnxModule:
    """A module from a graph whose tensors are checked and internal.

    Raises:
        InputError: malformed.
        UnsupportedError: operators that are missing here, all of them named.
    """
    check_operators(graph, where)
    builder = _Builder(opset, where)
    program = builder.program(graph)
    initial = {tensor.name for tensor in graph.initializer}
    inputs = [_spec(item, where) for item in graph.input if item.name not in initial]
    outputs = [_spec(item, where) for item in graph.output]
    module = OnnxModule(program, inputs, outputs, max_elements)
    for name, layer in builder.layers.items():
        module.add_module(name, layer)
    for name, (array, trainable) in builder.constants.items():
        set_constant(module, name, from_numpy(array), trainable)
    return module.eval()


class _Builder:
    """Gathers what the module will hold.

    Attributes:
        layers: PyTorch's own layers, by name.
        constants: arrays and whether they are trained, by name.
    """

    def __init__(self, opset: int, where: str) -> None:
        self.layers: dict[str, Any] = {}
        self.constants: dict[str, tuple[NDArray[Any], bool]] = {}
        self._opset = opset
        self._where = where
        self._names: set[str] = {"inputs", "outputs", "training"}
        self._narrow: dict[str, int] = {}

    def program(self, graph: GraphProto) -> Program:
        """A graph or subgraph as steps. Its constants and layers become the module's."""
        arrays = {tensor.name: self._array(tensor) for tensor in graph.initializer}
        self._note_narrow_types(graph)
        nodes = []
        for proto in graph.node:
            if proto.op_type == "Constant":
                arrays[proto.output[0]] = self._constant(proto)
            else:
                nodes.append((self._node(proto), self._graphs(proto)))
        uses = uses_of(nodes, [item.name for item in graph.output])
        steps = self._steps(nodes, arrays, uses)
        left = {name for step in steps for name in needs(step)} | {o.name for o in graph.output}
        hosts: dict[str, Host] = {}
        held: dict[str, str] = {}
        for name, array in arrays.items():
            if name not in left:
                continue
            if is_host(array, uses.get(name, [])):
                hosts[name] = array
            else:
                held[name] = self._hold(name, array, is_trained(array, uses.get(name, [])))
        inputs = tuple(item.name for item in graph.input if item.name not in arrays)
        outputs = tuple(item.name for item in graph.output)
        return Program(inputs, outputs, with_last_uses(steps, outputs), hosts, held)

    def _note_narrow_types(self, graph: GraphProto) -> None:
        """Remember which values have elements below eight bits: tensors do not tell."""
        declared = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for item in (*graph.input, *graph.value_info):
            declared[item.name] = item.type.tensor_type.elem_type
        for name, number in declared.items():
            if number in BY_NUMBER and BY_NUMBER[number].bits:
                self._narrow[name] = number

    def _steps(
        self,
        nodes: list[tuple[Node, dict[str, Program]]],
        arrays: Mapping[str, NDArray[Any]],
        uses: Uses,
    ) -> list[Step]:
        steps = []
        absorbed: set[int] = set()
        for node, graphs in nodes:
            if id(node) in absorbed:
                continue
            chosen = choose_layer(node, arrays, uses)
            if chosen is None:
                steps.append(Step(node, graphs=graphs))
                continue
            name = self._name(chosen.name)
            self.layers[name] = chosen.layer
            absorbed |= {id(item) for item in chosen.absorbed}
            steps.append(Step(chosen.node, layer=name))
        return steps

    def _graphs(self, proto: NodeProto) -> dict[str, Program]:
        return {
            attribute.name: self.program(attribute.g)
            for attribute in proto.attribute
            if attribute.type == AttributeProto.GRAPH
        }

    def _node(self, proto: NodeProto) -> Node:
        where = f"{self._where}: {proto.name or next(iter(proto.output), proto.op_type)}"
        attributes = {
            item.name: self._attribute(item)
            for item in proto.attribute
            if item.type != AttributeProto.GRAPH
        }
        inputs = list(proto.input)
        like = _TYPED_LIKE.get(proto.op_type)
        if like is not None and like < len(inputs) and inputs[like] in self._narrow:
            attributes["narrow"] = self._narrow[inputs[like]]
        while inputs and not inputs[-1]:
            inputs.pop()
        return Node(
            proto.op_type, where, tuple(inputs), tuple(proto.output), attributes, self._opset
        )

    def _attribute(self, item: AttributeProto) -> Any:
        match item.type:
            case AttributeProto.TENSOR:
                return self._array(item.t)
            case AttributeProto.STRING:
                return item.s.decode("utf-8", "replace")
            case AttributeProto.STRINGS:
                return [text.decode("utf-8", "replace") for text in item.strings]
            case AttributeProto.INT:
                return item.i
            case AttributeProto.INTS:
                return list(item.ints)
            case AttributeProto.FLOAT:
                return item.f
            case AttributeProto.FLOATS:
                return list(item.floats)
            case AttributeProto.TYPE_PROTO:
                return None  # the type of an optional, which its value tells
        raise UnsupportedError(f"the attribute {item.name} is not supported", where=self._where)

    def _constant(self, proto: NodeProto) -> NDArray[Any]:
        for item in proto.attribute:
            value = self._attribute(item)
            if item.name == "value":
                return np.asarray(value)
            if item.name in ("value_int", "value_ints"):
                return np.array(value, np.int64)
            if item.name in ("value_float", "value_floats"):
                return np.array(value, np.float32)
        raise UnsupportedError("a constant that is no number", where=f"{self._where}: {proto.name}")

    def _array(self, tensor: TensorProto) -> NDArray[Any]:
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"a malformed tensor: {error}", where=f"{self._where}: {tensor.name}"
            ) from error

    def _hold(self, name: str, array: NDArray[Any], trained: bool) -> str:
        chosen = self._name(name)
        self.constants[chosen] = (array, trained)
        return chosen

    def _name(self, name: str) -> str:
        """A name for an attribute of the module, near `name` and not yet given."""
        plain = re.sub(r"\W+", "_", name).strip("_") or "value"
        if plain[0].isdigit() or plain.startswith(
            "val_"
        ):  # torch.onnx.export's own names are val_N
            plain = f"held_{plain.removeprefix('val_')}"
        chosen, count = plain, 1
        while chosen in self._names or hasattr(OnnxModule, chosen):
            count += 1
            chosen = f"{plain}_{count}"
        self._names.add(chosen)
        return chosen


def _spec(item: ValueInfoProto, where: str) -> TensorSpec:
    kind = item.type
    while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
        inner = kind.WhichOneof("value")
        kind = getattr(kind, inner).elem_type
    tensor = kind.tensor_type
    shape = tuple(
        axis.dim_value if axis.WhichOneof("value") == "dim_value" else -1
        for axis in tensor.shape.dim
    )
    if not tensor.elem_type:
        return TensorSpec(item.name, "", shape)
    dtype = str(element_type(tensor.elem_type, f"{where}: {item.name}").torch)
    return TensorSpec(item.name, dtype.removeprefix("torch."), shape)
