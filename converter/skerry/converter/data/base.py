"""Rows of data, as callers pass them to a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import InputError

__all__ = ["Dataset"]


@dataclass(frozen=True)
class Dataset:
    """Inputs by name and the labels that go with them.

    Attributes:
        name: where it came from, for messages.
        inputs: arrays of N rows, in the shape and dtype that callers pass.
        labels: N labels.
        classes: class names by number, where the data say them.
    """

    name: str
    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: slice | NDArray[np.intp]) -> Dataset:
        """These rows alone."""
        inputs = {name: array[index] for name, array in self.inputs.items()}
        return Dataset(self.name, inputs, self.labels[index], self.classes)

    def sample(self, count: int, seed: int) -> Dataset:
        """At most `count` rows, chosen by `seed`, in their order."""
        if count >= len(self):
            return self
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.rows(np.sort(chosen))

    def parted(self, share: float, seed: int) -> tuple[Dataset, Dataset]:
        """The share of the rows that `seed` chooses, and all others; both in their order.

        Raises:
            InputError: there are not two rows.
        """
        count = len(self)
        if count < 2:
            raise InputError("too few rows to part", where=self.name, remedy="give more")
        order = np.random.default_rng(seed).permutation(count)
        first = min(max(1, round(share * count)), count - 1)
        return self.rows(np.sort(order[:first])), self.rows(np.sort(order[first:]))

    def batches(self, rows: int) -> Iterator[Mapping[str, NDArray[Any]]]:
        """The inputs, `rows` at a time; the last batch may be shorter."""
        for start in range(0, len(self), rows):
            yield {name: array[start : start + rows] for name, array in self.inputs.items()}
