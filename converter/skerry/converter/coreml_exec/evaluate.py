"""Evaluation of a block, operation by operation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from skerry.converter.coreml_exec.call import Call
from skerry.converter.coreml_exec.graph import Block, Literal, Operation, Reference
from skerry.converter.coreml_exec.ops import OPERATORS
from skerry.devices.errors import BundleError, UnsupportedError

__all__ = ["evaluate", "fold"]

_CONTROL = ("cond", "while_loop")


def evaluate(block: Block, values: dict[str, Any], max_elements: int) -> dict[str, Tensor]:
    """Run `block` on `values`, which it fills, and give what it yields.

    A value is dropped after its last use.
    """
    last = _last_uses(block)
    for position, operation in enumerate(block.operations):
        values.update(_compute(operation, values, max_elements))
        for name in last.get(position, ()):
            values.pop(name, None)
    return {name: _look_up(name, values, "outputs") for name in block.outputs}


def fold(block: Block, max_elements: int) -> tuple[Block, dict[str, Any]]:
    """Compute at once what hangs on constants alone; decompressed weights are the most of it.

    Returns:
        The block without those operations, and their values.

    Raises:
        UnsupportedError: operators that are missing here, all of them named.
    """
    missing = sorted(
        {kind for kind in _kinds(block) if kind not in (*OPERATORS, "const", *_CONTROL)}
    )
    if missing:
        where = next(_users(block, missing[0])).where
        raise UnsupportedError(f"operators not computed here: {', '.join(missing)}", where=where)
    constants: dict[str, Any] = {}
    rest = []
    for operation in block.operations:
        if _is_constant(operation, constants):
            constants.update(_compute(operation, constants, max_elements))
        else:
            rest.append(operation)
    used = {name for operation in rest for name in _references(operation)} | set(block.outputs)
    kept = {name: value for name, value in constants.items() if name in used}
    return replace(block, operations=tuple(rest)), kept


def _is_constant(operation: Operation, constants: Mapping[str, Any]) -> bool:
    if operation.blocks or operation.kind.startswith("random"):
        return False
    return all(name in constants for name in _references(operation))


def _compute(operation: Operation, values: Mapping[str, Any], max_elements: int) -> dict[str, Any]:
    arguments = {
        key: tuple(
            item.value
            if isinstance(item, Literal)
            else _look_up(item.name, values, operation.where)
            for item in items
        )
        for key, items in operation.arguments.items()
    }
    if operation.kind == "const":
        return {operation.outputs[0].name: arguments["val"][0]}
    found = OPERATORS[operation.kind](Call(operation, arguments, max_elements))
    several = found if isinstance(found, tuple) else (found,)
    return {output.name: value for output, value in zip(operation.outputs, several, strict=False)}


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


def _kinds(block: Block) -> Iterator[str]:
    for operation in block.operations:
        yield operation.kind
        for inner in operation.blocks:
            yield from _kinds(inner)


def _users(block: Block, kind: str) -> Iterator[Operation]:
    for operation in block.operations:
        if operation.kind == kind:
            yield operation
        for inner in operation.blocks:
            yield from _users(inner, kind)
