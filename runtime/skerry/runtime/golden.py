"""Golden samples: what an artifact gave where it was built, it must give here."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError, GoldenError
from skerry.runtime.bundle.card import ArtifactSpec, Card, Tolerance
from skerry.runtime.engine.base import Arrays, Engine

__all__ = ["Difference", "GoldenResult", "check_golden", "check_outputs", "compare"]


class Difference(msgspec.Struct, frozen=True):
    """How far one output lies from its golden values.

    Attributes:
        largest: the largest absolute difference of an element; infinite where either is not finite
            and the other differs.
        argmax: the share of rows whose argmax over the last axis agrees, of integers that of the
            equal ones; 1.0 for an output of scalars.
    """

    largest: float
    argmax: float


class GoldenResult(msgspec.Struct, frozen=True):
    """The outcome of a golden test that passed: rows compared, and each output's difference."""

    rows: int
    outputs: dict[str, Difference]


def compare(found: NDArray[Any], expected: NDArray[Any]) -> Difference:
    """The difference of two arrays of one shape, [N, …].

    Strings are equal or differ infinitely. Of integers the share that is equal stands for the
    argmax: they are class numbers, of which none is near another.
    """
    if "U" in (expected.dtype.kind, found.dtype.kind):
        equal = found.astype(np.str_) == expected.astype(np.str_)
        return Difference(0.0 if equal.all() else np.inf, float(equal.mean()))
    left, right = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(left - right)
    apart[left == right] = 0.0
    apart[np.isnan(left) & np.isnan(right)] = 0.0
    apart[np.isnan(apart)] = np.inf
    largest = float(apart.max(initial=0.0))
    if expected.dtype.kind in "iu":
        return Difference(largest, float((left == right).mean()))
    if left.ndim < 2 or left.shape[-1] < 2:
        return Difference(largest, 1.0)
    same = left.argmax(axis=-1) == right.argmax(axis=-1)
    return Difference(largest, float(same.mean()))


def check_golden(
    card: Card, artifact: ArtifactSpec, engine: Engine, arrays: Arrays
) -> GoldenResult:
    """Run the golden samples through `engine`, which has loaded `artifact`.

    Args:
        arrays: as `Bundle.golden` gives them.

    Raises:
        GoldenError: an output differs by more than the artifact's tolerance; says which and by how
            much.
        BundleError: the bundle has no golden outputs for this artifact.
    """
    inputs = {
        own: arrays[f"input/{spec.name}"]
        for own, spec in zip(artifact.inputs, card.inputs, strict=True)
    }
    found = engine.run(inputs)
    rows = len(next(iter(inputs.values())))
    return GoldenResult(rows, check_outputs(card, artifact, found, arrays))


def check_outputs(
    card: Card, artifact: ArtifactSpec, found: Arrays, golden: Arrays
) -> dict[str, Difference]:
    """Compare what an artifact gave, under its own names, with its golden outputs.

    Raises:
        GoldenError, BundleError: as `check_golden`.
    """
    differences = {}
    for own, spec in zip(artifact.outputs, card.outputs, strict=True):
        key = f"output/{artifact.name}/{spec.name}"
        if key not in golden:
            raise BundleError(f"no {key!r}", where="golden samples", remedy="build it again")
        if own not in found:
            raise BundleError(f"the file has no output {own!r}", where=artifact.name)
        where = f"{artifact.name}: output {spec.name}"
        if found[own].shape != golden[key].shape:
            raise GoldenError(
                f"shape {found[own].shape} where the golden is {golden[key].shape}", where=where
            )
        differences[spec.name] = compare(found[own], golden[key])
        near = golden[key].dtype.kind not in "iu"
        _judge(differences[spec.name], artifact.tolerance, where, near=near)
    return differences


def _judge(found: Difference, tolerance: Tolerance, where: str, *, near: bool) -> None:
    remedy = "this machine computes it otherwise, or the artifact is another: do not serve it"
    if near and not found.largest <= tolerance.atol:
        raise GoldenError(
            f"differs from golden by {found.largest:.3g}, {tolerance.atol:.3g} is allowed",
            where=where,
            remedy=remedy,
        )
    if found.argmax < tolerance.argmax:
        raise GoldenError(
            f"argmax agrees on {found.argmax:.1%} of the rows, {tolerance.argmax:.1%} is asked",
            where=where,
            remedy=remedy,
        )
