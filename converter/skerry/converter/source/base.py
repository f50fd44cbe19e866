"""The seam to whatever the user brings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelSource"]


class ModelSource(Protocol):
    """A trained model in some form."""

    @property
    def kind(self) -> str:
        """The form: `pytorch`, …"""

    @property
    def name(self) -> str:
        """What to call it in messages and in the report."""

    def materials(self) -> Mapping[str, Path]:
        """The files it is made of, by the name to give them in the provenance."""

    def module(self) -> nn.Module:
        """The model, new at each call: in eval mode, float32, on the CPU, trainable.

        Its `forward` takes one float tensor per input, [N, …], and gives a tensor [N, …] or a
        tuple of them.

        Raises:
            InputError: it cannot be loaded, or its weights are not finite.
        """
