"""Lists and state. A list is a tuple of tensors; a state is a cell that holds one tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel
from skerry.converter.coreml_exec.dtypes import BY_NAME

__all__ = ["TABLE"]


def _make_list(call: Call) -> Any:
    axes: tuple[Any, ...] = call.all("elem_shape")
    shape = [int(n) if isinstance(n, Tensor) else 1 for n in axes]
    length = call.integer("init_length", 1)
    call.bounded([length, *shape])
    name = call.text("dtype", "fp32")
    if name not in BY_NAME:
        raise call.unsupported(f"no element type {name!r}")
    return [[torch.zeros(shape, dtype=BY_NAME[name].torch)] * length]


def _list(call: Call) -> list[Tensor]:
    return list(call.all("ls")[0])


def _write(items: list[Tensor], index: int, value: Tensor, call: Call) -> None:
    if index >= len(items):
        call.bounded([index + 1, *value.shape])
        items += [torch.zeros_like(value)] * (index + 1 - len(items))
    items[index] = value


def _list_write(call: Call) -> Any:
    items = _list(call)
    _write(items, call.integer("index"), call["value"], call)
    return [items]


def _list_scatter(call: Call) -> Any:
    items = _list(call)
    for index, value in zip(call.ints("indices"), call["value"].unbind(0), strict=True):
        _write(items, index, value, call)
    return [items]


def _list_gather(call: Call) -> Tensor:
    items = _list(call)
    return torch.stack([items[index] for index in call.ints("indices")])


def _write_state(call: Call) -> tuple[()]:
    (state,) = call.all("input")
    state[0] = call["data"]
    return ()


TABLE: dict[str, Kernel] = {
    "list_gather": _list_gather,
    "list_length": lambda call: torch.tensor(len(_list(call)), dtype=torch.int32),
    "list_read": lambda call: _list(call)[call.integer("index")],
    "list_scatter": _list_scatter,
    "list_write": _list_write,
    "make_list": _make_list,
    "read_state": lambda call: call.all("input")[0][0],
    "write_state": _write_state,
}
