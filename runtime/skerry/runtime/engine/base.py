"""The seam between skerry and whatever computes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from skerry.devices.errors import CancelledError
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["Arrays", "Engine", "EngineOptions", "refuse_late"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine may take of the machine.

    Attributes:
        threads: compute threads of one call, at least 1.
        cpus: where the engine's own threads run, a part of the process's affinity; empty for all
            of it. A caller's thread, which computes too, stays wherever its maker put it; that of
            an isolated engine is the engine's own.
        providers: ONNX Runtime's execution providers to use before the CPU, preferred first.
    """

    threads: int = 1
    cpus: tuple[int, ...] = ()
    providers: tuple[str, ...] = ()


class Engine(Protocol):
    """One loaded artifact. `run` may be called from several threads."""

    @property
    def name(self) -> str:
        """The library and its version, such as `onnxruntime 1.31.1`."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The artifact's own inputs; -1 where an axis is free."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The artifact's own outputs."""

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, NDArray[Any]]:
        """Compute every output for a batch of any length (axis 0).

        Args:
            until: steady time (`time.monotonic`) after which nobody wants the answer. An engine
                that can stop then raises CancelledError; one that cannot does not begin after it.
        """

    def close(self) -> None:
        """Give back memory and files. The engine is not used again."""


def refuse_late(until: float | None) -> None:
    """Begin nothing that nobody waits for.

    Raises:
        CancelledError: `until` (`time.monotonic`) has come.
    """
    if until is not None and time.monotonic() >= until:
        raise CancelledError("the deadline had come before it began", where="engine")
