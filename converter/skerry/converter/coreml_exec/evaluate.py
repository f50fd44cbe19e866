"""Evaluation of a block, operation by operation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from skerry.converter.coreml_exec.call import Call
from skerry.converter.coreml_exec.graph import Block, Literal, Operation, Reference
from skerry.converter.coreml_exec.ops import OPERATORS
from skerry.devices.errors import BundleError, UnsupportedError

__all__ = ["Evaluator"]

_Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Computes blocks.

    Attributes:
        max_elements: elements of one tensor.
        max_steps: turns of one loop.
    """

    max_elements: int
    max_steps: int

    def fold(self, block: Block) -> Block:
        """`block` without what hangs on constants alone, which is computed now; decompressed
        weights are the most of it.

        Raises:
            UnsupportedError: operators that are missing here, all of them named.
        """
        known = {*OPERATORS, "const", "cond", "while_loop"}
        missing = {item.kind: item.where for item in _operations(block) if item.kind not in known}
        if missing:
            names = ", ".join(sorted(missing))
            where = missing[min(missing)]
            raise UnsupportedError(f"operators not computed here: {names}", where=where)
        return self._fold(block, {})

    def evaluate(self, block: Block, values: _Values, *, keep: bool = False) -> _Values:
        """Run `block` on `values`, which it fills, and give what it yields by name.

        A value is dropped after its last use, unless asked to `keep` every one.
        """
        values.update(block.constants)
        last = _last_uses(block)
        for position, operation in enumerate(block.operations):
            values.update(self._compute(operation, values))
            for name in () if keep else last.get(position, ()):
                values.pop(name, None)
        return {name: _look_up(name, values, "outputs") for name in block.outputs}

    def _fold(self, block: Block, outer: Mapping[str, Any]) -> Block:
        constants = dict(outer)
        rest = []
        for operation in block.operations:
            if _is_constant(operation, constants):
                constants.update(self._compute(operation, constants))
            else:
                inner = tuple(self._fold(item, constants) for item in operation.blocks)
                rest.append(replace(operation, blocks=inner))
        used = {name for operation in rest for name in _references(operation)} | {*block.outputs}
        own = {name: constants[name] for name in constants if name in used and name not in outer}
        return replace(block, operations=tuple(rest), constants=own)

    def _compute(self, operation: Operation, values: Mapping[str, Any]) -> _Values:
        arguments = {
            key: tuple(
                item.value
                if isinstance(item, Literal)
                else _look_up(item.name, values, operation.where)
                for item in items
            )
            for key, items in operation.arguments.items()
        }
        call = Call(operation, arguments, self.max_elements)
        if operation.kind == "const":
            several: tuple[Any, ...] | list[Any] = arguments["val"]
        elif operation.kind == "cond":
            several = self._branch(call, values)
        elif operation.kind == "while_loop":
            several = self._loop(call, values)
        else:
            found = OPERATORS[operation.kind](call)
            several = found if isinstance(found, tuple | list) else (found,)
        return {
            output.name: value for output, value in zip(operation.outputs, several, strict=False)
        }

    def _branch(self, call: Call, values: Mapping[str, Any]) -> list[Any]:
        when_true, when_false = call.operation.blocks
        chosen = when_true if call.flag("pred") else when_false
        return list(self._yielded(chosen, dict(values)))

    def _loop(self, call: Call, values: Mapping[str, Any]) -> list[Any]:
        condition, body = call.operation.blocks
        carried = list(call.all("loop_vars"))
        for _ in range(self.max_steps):
            (goes_on,) = self._yielded(condition, _bound(condition, carried, values))
            if not bool(goes_on):
                return carried
            carried = self._yielded(body, _bound(body, carried, values))
        raise BundleError(f"a loop of more than {self.max_steps} turns", where=call.operation.where)

    def _yielded(self, block: Block, values: _Values) -> list[Any]:
        found = self.evaluate(block, values)
        return [found[name] for name in block.outputs]


def _bound(block: Block, carried: list[Any], values: Mapping[str, Any]) -> _Values:
    """The values that `block` sees: all outside it, and its inputs."""
    own = {item.name: value for item, value in zip(block.inputs, carried, strict=True)}
    return {**values, **own}


def _is_constant(operation: Operation, constants: Mapping[str, Any]) -> bool:
    if operation.blocks or operation.kind.startswith("random"):
        return False
    return all(name in constants for name in _references(operation))


def _look_up(name: str, values: Mapping[str, Any], where: str) -> Any:
    if name not in values:
        raise BundleError(f"nothing computes {name!r}", where=where)
    return values[name]


def _references(operation: Operation) -> Iterator[str]:
    for items in operation.arguments.values():
        for item in items:
            if isinstance(item, Reference):
                yield item.name
    for block in operation.blocks:
        for inner in block.operations:
            yield from _references(inner)
        yield from block.outputs


def _last_uses(block: Block) -> dict[int, list[str]]:
    """For each operation, the values that nothing after it needs."""
    last: dict[str, int] = {}
    for position, operation in enumerate(block.operations):
        for name in _references(operation):
            last[name] = position
    uses: dict[int, list[str]] = {}
    for name, position in last.items():
        if name not in block.outputs:
            uses.setdefault(position, []).append(name)
    return uses


def _operations(block: Block) -> Iterator[Operation]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)
