"""A model source in memory."""

import copy
from collections.abc import Mapping
from pathlib import Path

from torch import nn


class FakeSource:
    """`ModelSource` of a module that is at hand."""

    kind = "memory"

    def __init__(self, module: nn.Module, name: str = "a module") -> None:
        self._module, self._name = module, name

    @property
    def name(self) -> str:
        return self._name

    def materials(self) -> Mapping[str, Path]:
        return {}

    def module(self) -> nn.Module:
        return copy.deepcopy(self._module).eval()
