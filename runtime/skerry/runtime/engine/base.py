"""The seam between skerry and whatever computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from skerry.runtime.bundle.card import TensorSpec

__all__ = ["Arrays", "Engine", "EngineOptions"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine may take of the machine.

    Attributes:
        threads: compute threads of one call, at least 1.
    """

    threads: int = 1


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

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute every output for a batch of any length (axis 0)."""

    def close(self) -> None:
        """Give back memory and files. The engine is not used again."""
