"""A loaded artifact that answers predictions by the names and shapes of the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError, SignatureMismatch
from skerry.runtime.bundle.card import ArtifactSpec, Card, TensorSpec
from skerry.runtime.engine.base import Arrays, Engine

__all__ = ["Session", "SessionLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """What one call may ask.

    Attributes:
        rows: the longest batch.
        refuse_nan: whether a NaN in an input is refused.
    """

    rows: int = 4096
    refuse_nan: bool = True


class _Input:
    """One input of the card, made ready for being checked quickly."""

    __slots__ = ("dtype", "floating", "limits", "name", "own", "shape", "tail")

    def __init__(self, spec: TensorSpec, own: str, limits: SessionLimits) -> None:
        self.name, self.own, self.shape, self.limits = spec.name, own, spec.shape, limits
        self.dtype = np.dtype(spec.dtype)
        self.floating = limits.refuse_nan and self.dtype.kind == "f"
        self.tail = None if -1 in spec.shape[1:] else spec.shape[1:]

    def check(self, array: object) -> None:
        if type(array) is not np.ndarray or (
            array.dtype != self.dtype and not array.dtype.kind == self.dtype.kind == "U"
        ):
            kind = getattr(array, "dtype", type(array).__name__)
            raise SignatureMismatch(f"is {kind}, expected {self.dtype}", where=f"input {self.name}")
        shape = array.shape
        if shape[1:] != self.tail or not shape or self.shape[0] not in (-1, shape[0]):
            self._check_shape(shape)
        if not 1 <= shape[0] <= self.limits.rows:
            raise SignatureMismatch(
                f"{shape[0]} rows, expected 1 to {self.limits.rows}", where=f"input {self.name}"
            )
        if self.floating and _has_nan(array):
            raise SignatureMismatch("contains NaN", where=f"input {self.name}")

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        fits = len(shape) == len(self.shape) and all(
            wanted == length or (wanted == -1 and (length or not axis))
            for axis, (wanted, length) in enumerate(zip(self.shape, shape, strict=True))
        )
        if not fits:
            wanted = ", ".join("any" if length == -1 else str(length) for length in self.shape)
            raise SignatureMismatch(
                f"has shape {list(shape)}, expected [{wanted}]", where=f"input {self.name}"
            )


class Session:
    """Validates a call, runs the engine under its own names, and answers under the card's.

    Args:
        engine: has loaded `artifact`; not owned.

    Raises:
        BundleError: the file has other tensors than the card says.
    """

    def __init__(
        self, card: Card, artifact: ArtifactSpec, engine: Engine, limits: SessionLimits
    ) -> None:
        _check_names(artifact, engine)
        self._engine = engine
        self._inputs = tuple(
            _Input(spec, own, limits)
            for spec, own in zip(card.inputs, artifact.inputs, strict=True)
        )
        self._outputs = {
            spec.name: own for spec, own in zip(card.outputs, artifact.outputs, strict=True)
        }
        self._every = tuple(self._outputs.items())

    def predict(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        until: float | None = None,
    ) -> Arrays:
        """Answer one call.

        Args:
            inputs: an array for each of the card's inputs, one length on axis 0.
            outputs: the names wanted; all where None.
            until: as for `Engine.run`.

        Raises:
            SignatureMismatch: the call does not fit; names the tensor.
            UnavailableError: the engine failed.
        """
        feed = {}
        try:
            for wanted in self._inputs:
                array = inputs[wanted.name]
                wanted.check(array)
                feed[wanted.own] = array
        except KeyError:
            raise SignatureMismatch("is missing", where=f"input {wanted.name}") from None
        if len(feed) > 1 or len(inputs) != 1:
            self._check_together(inputs)
        if outputs is not None:
            self._check_outputs(outputs)
        found = self._engine.run(feed, until)
        if outputs is None:
            return {name: found[own] for name, own in self._every}
        return {name: found[self._outputs[name]] for name in outputs}

    def _check_together(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        known = {wanted.name for wanted in self._inputs}
        if unknown := sorted(set(inputs) - known):
            raise SignatureMismatch(
                "is no input of this model",
                where=f"input {unknown[0][:80]}",
                remedy=f"the inputs are {', '.join(sorted(known))}",
            )
        lengths = {name: len(array) for name, array in inputs.items()}
        if len(set(lengths.values())) != 1:
            raise SignatureMismatch(f"the inputs differ in length: {lengths}", where="inputs")

    def _check_outputs(self, outputs: Sequence[str]) -> None:
        for name in outputs:
            if name not in self._outputs:
                raise SignatureMismatch(
                    "is no output of this model",
                    where=f"output {name[:80]}",
                    remedy=f"the outputs are {', '.join(self._outputs)}",
                )


def _has_nan(array: NDArray[Any]) -> bool:
    """Whether any element is NaN: the sum of squares is NaN exactly then (inf stays inf)."""
    if array.size > 4096 or array.dtype.itemsize == 2:
        return bool(np.isnan(array.min()))
    squares = np.vdot(array, array)
    return bool(squares != squares)


def _check_names(artifact: ArtifactSpec, engine: Engine) -> None:
    for names, specs, what in (
        (artifact.inputs, engine.inputs, "input"),
        (artifact.outputs, engine.outputs, "output"),
    ):
        have = {spec.name for spec in specs}
        for name in names:
            if name not in have:
                raise BundleError(f"the file has no {what} {name!r}", where=artifact.name)
