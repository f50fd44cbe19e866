"""Write each small constant of an ML Program once, under a short name.

coremltools gives every operator constants of its own, each with a name of its own: strides, padding
and scales are most of the operators of a quantized network's specification, and of a small network
they are a third of the file. What any operator earlier in the block gave may be read by many, so
that equal constants are one. Weights, which lie in the weight file, keep their names: tools that
compress a program ask for them by these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["share_constants"]


def share_constants(function: Any) -> None:
    """Join the constants of a function's outermost block that are equal, and number them.

    Args:
        function: a `MILSpec.Function`, edited in place. What it computes, and the names of its
            inputs, outputs, weights and all other operators, stay as they are.
    """
    for block in function.block_specializations.values():
        renamed = _renamed(block)
        kept = []
        for operation in block.operations:
            if _is_small(operation) and operation.outputs[0].name in renamed:
                short, first = renamed[operation.outputs[0].name]
                if not first:
                    continue
                operation.outputs[0].name = short
                operation.attributes.pop("name", None)
            for argument in _arguments(operation):
                if argument.name in renamed:
                    argument.name = renamed[argument.name][0]
            kept.append(operation)
        del block.operations[:]
        block.operations.extend(kept)


def _renamed(block: Any) -> dict[str, tuple[str, bool]]:
    """The short name of each constant that may be joined, and whether it is the first such."""
    names, results = set(_names(block)), set(_results(block))
    numbers: dict[bytes, str] = {}
    found: dict[str, tuple[str, bool]] = {}
    for operation in block.operations:
        if not _is_small(operation) or operation.outputs[0].name in results:
            continue
        value = operation.attributes["val"].SerializeToString(deterministic=True)
        first = value not in numbers
        if first:
            number = len(numbers)
            while (short := f"c{number}") in names:
                number += 1
            names.add(short)
            numbers[value] = short
        found[operation.outputs[0].name] = (numbers[value], first)
    return found


def _is_small(operation: Any) -> bool:
    """Whether it is a constant whose value stands in the specification itself."""
    if operation.type != "const" or len(operation.outputs) != 1:
        return False
    return bool(operation.attributes["val"].WhichOneof("value") == "immediateValue")


def _arguments(operation: Any) -> Iterator[Any]:
    """Everything the operation reads by name, its nested blocks' operators too."""
    for given in operation.inputs.values():
        for argument in given.arguments:
            if argument.WhichOneof("binding") == "name":
                yield argument
    for block in operation.blocks:
        for nested in block.operations:
            yield from _arguments(nested)


def _names(block: Any) -> Iterator[str]:
    """Every name that is given in the block."""
    for item in block.inputs:
        yield item.name
    for operation in block.operations:
        for item in operation.outputs:
            yield item.name
        for nested in operation.blocks:
            yield from _names(nested)


def _results(block: Any) -> Iterator[str]:
    """The names of what the block and those nested in it return."""
    yield from block.outputs
    for operation in block.operations:
        for nested in operation.blocks:
            yield from _results(nested)
