"""The module an ONNX graph becomes: layers, parameters and buffers, and the steps that use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from skerry.converter.onnx_import.call import Call, Host, Node, Value, as_tensor, is_host
from skerry.converter.onnx_import.host import HOST_OPERATORS
from skerry.converter.onnx_import.ops import OPERATORS
from skerry.devices.errors import InputError, SkerryError
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["OnnxModule", "Program", "Step", "set_constant"]


@dataclass(frozen=True, slots=True)
class Step:
    """One node's turn.

    Attributes:
        node: what is computed.
        layer: the module's layer that computes it from the tensors in `node.inputs`; None for an
            operator of the table.
        graphs: subgraphs, by attribute.
        last: values that nothing after this step needs.
    """

    node: Node
    layer: str | None = None
    graphs: Mapping[str, Program] = field(default_factory=dict)
    last: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """A graph ready to run.

    Attributes:
        inputs, outputs: names of values.
        steps: in the order they run.
        hosts: constants that are known while tracing.
        held: constants that are parameters or buffers, by the module's name for them.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    hosts: Mapping[str, Host]
    held: Mapping[str, str]


class OnnxModule(nn.Module):
    """An imported graph.

    Attributes:
        inputs, outputs: names, dtypes and shapes (-1 where a length is free) in forward's order.
    """

    def __init__(
        self,
        program: Program,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        max_elements: int,
    ) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._program = program
        self._max_elements = max_elements

    def forward(self, *inputs: Value) -> Any:
        """Compute the graph.

        Args:
            inputs: one tensor for each of `self.inputs`.

        Returns:
            The output, or a tuple where there are several.
        """
        if len(inputs) != len(self._program.inputs):
            raise InputError(f"{len(inputs)} inputs, where {list(self._program.inputs)} are needed")
        values = dict(zip(self._program.inputs, inputs, strict=True))
        found = [
            value if isinstance(value, list) or value is None else as_tensor(value)
            for value in self._run(self._program, values)
        ]
        return found[0] if len(found) == 1 else tuple(found)

    def _run(self, program: Program, values: dict[str, Value]) -> list[Value]:
        values.update(program.hosts)
        for name, attribute in program.held.items():
            values[name] = getattr(self, attribute)
        for step in program.steps:
            results = self._step(step, values)
            values.update(
                (name, value)
                for name, value in zip(step.node.outputs, results, strict=False)
                if name
            )
            for name in step.last:
                values.pop(name, None)
        return [_look_up(name, values, "outputs") for name in program.outputs]

    def _step(self, step: Step, values: Mapping[str, Value]) -> Sequence[Value]:
        node = step.node
        inputs = [_look_up(name, values, node.where) if name else None for name in node.inputs]
        if step.layer is not None:
            found = getattr(self, step.layer)(*map(as_tensor, inputs))
            return found if isinstance(found, tuple) else (found,)

        def graphs(attribute: str, arguments: Sequence[Value]) -> list[Value]:
            inner = step.graphs[attribute]
            bound = dict(zip(inner.inputs, arguments, strict=True))
            return self._run(inner, {**values, **bound})

        call = Call(node, inputs, self._max_elements, self.training, graphs)
        try:
            found = _host(call, inputs)
            if found is None:
                found = OPERATORS[node.kind](call)
        except SkerryError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
            if torch.compiler.is_compiling():
                raise
            error.add_note(f"in {node.kind} {node.where!r} of the imported graph")
            raise
        return found if isinstance(found, tuple) else (found,)


def _host(call: Call, inputs: Sequence[Value]) -> Any:
    """The node computed on host values, or None where it must be computed on tensors."""
    kernel = HOST_OPERATORS.get(call.node.kind)
    given = [value for value in inputs if value is not None]
    if kernel is None or not given or not all(is_host(value) for value in given):
        return None
    return kernel(call)


def _look_up(name: str, values: Mapping[str, Value], where: str) -> Value:
    if name not in values:
        raise InputError(f"nothing computes {name!r}", where=where)
    return values[name]


def set_constant(module: nn.Module, name: str, value: Tensor, trainable: bool) -> None:
    """Give `module` a parameter or a buffer."""
    if trainable:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)
