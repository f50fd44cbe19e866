"""An engine in plain numpy, that can be told to fail or to wait."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import UnavailableError
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.base import Arrays


class FakeEngine:
    """`y = x @ weight + bias`, for `x` of [N, 4] float32.

    Attributes:
        before: called before each run; may wait, count or raise.
        closed: whether `close` was called.
        runs: how many calls there were.
    """

    def __init__(self, weight: NDArray[Any] | None = None, bias: float = 0.0) -> None:
        self.name = "fake 1"
        self.inputs = (TensorSpec("x", "float32", (-1, 4)),)
        self.outputs = (TensorSpec("y", "float32", (-1, 3)),)
        self._weight = np.ones((4, 3), np.float32) if weight is None else weight
        self._bias = np.float32(bias)
        self.before: Callable[[], None] = lambda: None
        self.closed = False
        self.runs = 0

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, NDArray[Any]]:
        if self.closed:
            raise AssertionError("the engine was used after it was closed")
        self.before()
        self.runs += 1
        if set(inputs) != {"x"} or inputs["x"].dtype != np.float32 or inputs["x"].shape[1:] != (4,):
            raise UnavailableError("the fake engine failed", where="engine")
        return {"y": inputs["x"] @ self._weight + self._bias}

    def close(self) -> None:
        self.closed = True
