"""Control flow, sequences and optionals. A sequence is a list; an absent optional is None."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel, as_tensor

__all__ = ["TABLE"]

_MOST_STEPS = 1 << 16


def _if(call: Call) -> Any:
    return tuple(call.run("then_branch" if call.integer(0) else "else_branch", []))


def _loop(call: Call) -> Any:
    most = call.integer(0) if call.has(0) else _MOST_STEPS
    if most > _MOST_STEPS:
        raise call.unsupported(f"more than {_MOST_STEPS} turns")
    goes_on: Any = call.value(1) if call.has(1) else True
    state = [call.value(index) if call.has(index) else None for index in range(2, call.count)]
    scans: list[list[Tensor]] = []
    for turn in range(most):
        if not bool(goes_on):
            break
        found = call.run("body", [torch.tensor(turn), torch.tensor(bool(goes_on)), *state])
        goes_on, state = found[0], found[1 : 1 + len(state)]
        rest = found[1 + len(state) :]
        scans = scans or [[] for _ in rest]
        for scan, value in zip(scans, rest, strict=True):
            scan.append(as_tensor(value))
    return (*state, *(torch.stack(scan) for scan in scans))


def _scan(call: Call) -> Any:
    count = call.integer("num_scan_inputs")
    states = call.count - count
    state = [call.value(index) for index in range(states)]
    axes = call.ints("scan_input_axes", [0] * count)
    backward = call.ints("scan_input_directions", [0] * count)
    sequences = []
    for index in range(count):
        parts = list(call.tensor(states + index).unbind(axes[index]))
        sequences.append(parts[::-1] if backward[index] else parts)
    outputs: list[list[Tensor]] = []
    for items in zip(*sequences, strict=True):
        found = call.run("body", [*state, *items])
        state, rest = found[:states], found[states:]
        outputs = outputs or [[] for _ in rest]
        for output, value in zip(outputs, rest, strict=True):
            output.append(as_tensor(value))
    out_axes = call.ints("scan_output_axes", [0] * len(outputs))
    reversed_ = call.ints("scan_output_directions", [0] * len(outputs))
    stacked = [
        torch.stack(output[::-1] if back else output, axis)
        for output, axis, back in zip(outputs, out_axes, reversed_, strict=True)
    ]
    return (*state, *stacked)


def _sequence(call: Call) -> list[Any]:
    return list(call.value(0))


def _insert(call: Call) -> Any:
    items = _sequence(call)
    items.insert(call.integer(2, len(items)), call.tensor(1))
    return (items,)


def _erase(call: Call) -> Any:
    items = _sequence(call)
    del items[call.integer(1, -1)]
    return (items,)


def _split_to_sequence(call: Call) -> Any:
    x, axis = call.tensor(0), call.integer("axis", 0)
    if not call.has(1):
        parts = list(x.unbind(axis))
        return ([p.unsqueeze(axis) for p in parts] if call.integer("keepdims", 1) else parts,)
    sizes: Any = call.ints(1)
    scalar = call.tensor(1).ndim == 0
    return (list(torch.split(x, sizes[0] if scalar else sizes, axis)),)


def _concat_from_sequence(call: Call) -> Tensor:
    items = [as_tensor(item) for item in _sequence(call)]
    axis = call.integer("axis")
    return torch.stack(items, axis) if call.integer("new_axis", 0) else torch.cat(items, axis)


def _sequence_map(call: Call) -> Any:
    items = _sequence(call)
    more = [call.value(index) for index in range(1, call.count)]
    outputs: list[list[Any]] = []
    for index, item in enumerate(items):
        beside = [other[index] if isinstance(other, list) else other for other in more]
        found = call.run("body", [item, *beside])
        outputs = outputs or [[] for _ in found]
        for output, value in zip(outputs, found, strict=True):
            output.append(value if isinstance(value, list) else as_tensor(value))
    return tuple(outputs)


TABLE: dict[str, Kernel] = {
    "ConcatFromSequence": _concat_from_sequence,
    "If": _if,
    "Loop": _loop,
    "Optional": lambda call: (call.value(0) if call.has(0) else None,),
    "OptionalGetElement": lambda call: (call.value(0),),
    "OptionalHasElement": lambda call: torch.tensor(call.has(0)),
    "Scan": _scan,
    "SequenceAt": lambda call: _sequence(call)[call.integer(1)],
    "SequenceConstruct": lambda call: (call.tensors(),),
    "SequenceEmpty": lambda _: ([],),
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": lambda call: torch.tensor(len(_sequence(call))),
    "SequenceMap": _sequence_map,
    "SplitToSequence": _split_to_sequence,
}
