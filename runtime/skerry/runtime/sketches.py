"""The distributions of a call's features, in a few kilobytes that merge.

Live windows keep KLL sketches (Karnin, Lang and Liberty 2016; Apache DataSketches, k = 200: rank
error 1.33% at 99% confidence), which merge in any order but are randomised. A reference keeps all
values while it is built and writes exact quantiles, so that the same data give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import InputError, MissingExtraError
from skerry.runtime.engine.base import Arrays
from skerry.runtime.features import Features, features
from skerry.runtime.kll_form import check_kll

__all__ = ["KllSketch", "QuantileSketch", "Sketch", "SketchLimits", "SketchSet"]

_K = 200


@dataclass(frozen=True, slots=True)
class SketchLimits:
    """What a set of sketches may hold.

    Attributes:
        classes: most classes of one output.
        features: most features in one set.
        name_chars: longest feature name.
        sketch_bytes: longest encoded sketch.
        set_bytes: longest encoded set.
        rows: most rows one set may claim to have seen.
        reference_points: quantiles written for each feature of a reference.
    """

    classes: int = 4096
    features: int = 256
    name_chars: int = 200
    sketch_bytes: int = 8 << 10
    set_bytes: int = 1 << 20
    rows: int = 1 << 48
    reference_points: int = 513


_LIMITS = SketchLimits()


class Sketch(Protocol):
    """The distribution of one number, to within `rank_error`."""

    @property
    def count(self) -> int:
        """How many values were seen."""

    @property
    def rank_error(self) -> float:
        """How far a rank may be off, 0 to 1, at 99% confidence."""

    def quantiles(self, ranks: Sequence[float]) -> NDArray[np.float64]:
        """The values at the given ranks, each 0 to 1."""

    def cdf(self, points: Sequence[float]) -> NDArray[np.float64]:
        """The share of values ≤ each of the ascending `points`."""


class KllSketch:
    """`Sketch` that takes values as they come, and merges."""

    __slots__ = ("_kll",)

    def __init__(self, encoded: bytes | None = None) -> None:
        """An empty sketch, or one read from `encode`'s bytes (InputError if they are not)."""
        try:
            from datasketches import kll_floats_sketch
        except ImportError as error:
            raise MissingExtraError("device", missing="datasketches", needed_by="drift") from error
        if encoded is None:
            self._kll = kll_floats_sketch(_K)
            return
        check_kll(encoded, _K)
        try:
            self._kll = kll_floats_sketch.deserialize(encoded)
        except (ValueError, IndexError, RuntimeError, MemoryError) as error:
            raise InputError(f"damaged KLL sketch: {error}", where="sketch") from error

    @property
    def count(self) -> int:
        return int(self._kll.n)

    @property
    def rank_error(self) -> float:
        return (
            float(self._kll.normalized_rank_error(False)) if self._kll.is_estimation_mode() else 0.0
        )

    def update(self, values: NDArray[np.float32]) -> None:
        """Take in finite `values`, float32 [n]; they may be views of a message's bytes."""
        self._kll.update(values if values.flags.writeable else values.copy())  # it asks for that

    def merge(self, other: KllSketch) -> None:
        """Take in what `other` has seen."""
        self._kll.merge(other._kll)

    def quantiles(self, ranks: Sequence[float]) -> NDArray[np.float64]:
        return np.asarray(self._kll.get_quantiles(list(ranks), True), np.float64)

    def cdf(self, points: Sequence[float]) -> NDArray[np.float64]:
        if len(points) == 0:
            return np.empty(0)
        return np.asarray(self._kll.get_cdf(list(points), True)[:-1], np.float64)

    def encode(self) -> bytes:
        """The sketch in the DataSketches binary form, some 2.5 kB when full."""
        return bytes(self._kll.serialize())


class QuantileSketch:
    """`Sketch` of data known beforehand: its exact quantiles at evenly spaced ranks.

    Args:
        count: how many values there were.
        points: their quantiles, ascending float32 [m], m ≥ 1, from least to greatest.
    """

    __slots__ = ("_count", "_points")

    def __init__(self, count: int, points: NDArray[np.float32]) -> None:
        if count < 1 or points.ndim != 1 or points.size < 1:
            raise InputError("a sketch without values", where="sketch")
        if not (np.all(np.isfinite(points)) and np.all(np.diff(points) >= 0)):
            raise InputError("quantiles must be finite and ascending", where="sketch")
        self._count, self._points = count, points

    @classmethod
    def of(cls, values: NDArray[np.float32], most_points: int) -> QuantileSketch:
        """The sketch of finite `values`, float32 [n ≥ 1]; all of them where n ≤ `most_points`."""
        size = min(most_points, values.size)
        ranks = np.linspace(0.0, 1.0, size) if size > 1 else np.array([0.5])
        points = np.quantile(values, ranks, method="inverted_cdf")
        return cls(values.size, points.astype(np.float32))

    @property
    def count(self) -> int:
        return self._count

    @property
    def rank_error(self) -> float:
        return 0.0 if self._points.size == self._count else 1.0 / self._points.size

    def quantiles(self, ranks: Sequence[float]) -> NDArray[np.float64]:
        last = self._points.size - 1
        chosen = np.rint(np.clip(ranks, 0.0, 1.0) * np.float64(last)).astype(np.int64)
        return self._points[chosen].astype(np.float64)

    def cdf(self, points: Sequence[float]) -> NDArray[np.float64]:
        below = np.searchsorted(self._points, np.asarray(points, np.float32), side="right")
        return below / self._points.size

    def encode(self) -> bytes:
        """The quantiles as little-endian float32."""
        return self._points.astype("<f4").tobytes()


class _WireFeature(msgspec.Struct, frozen=True, array_like=True):
    form: Literal["kll", "quantiles"]
    count: int
    data: bytes


class _Wire(msgspec.Struct, frozen=True):
    v: Literal[1]
    rows: int
    features: dict[str, _WireFeature]
    classes: dict[str, list[int]]


class SketchSet:
    """Sketches of every feature of a model's inputs and outputs.

    Args:
        reference: keep every value (4 bytes for each row and feature) so that `encode` writes exact
            quantiles, the same bytes for the same data in the same order. For the release build.
    """

    def __init__(self, *, reference: bool = False, limits: SketchLimits = _LIMITS) -> None:
        self.rows = 0
        self.classes: dict[str, list[int]] = {}
        self._limits, self._reference = limits, reference
        self._sketches: dict[str, KllSketch | QuantileSketch] = {}
        self._values: dict[str, list[NDArray[np.float32]]] = {}

    @property
    def features(self) -> Mapping[str, Sketch]:
        """Feature name, such as `input/image/mean` or `output/logits/confidence`, to its sketch."""
        return {**self._sketches, **self._exact()}

    def update(self, inputs: Arrays, outputs: Arrays) -> None:
        """Take in one call: arrays whose axis 0 is the rows, as callers see them."""
        found, classes = features(inputs, outputs)
        rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=0)
        self.add(rows, found, classes)

    def add(self, rows: int, found: Features, classes: Mapping[str, NDArray[np.int64]]) -> None:
        """Take in what `features` said of `rows` rows."""
        self.rows += rows
        for name, values in found.items():
            if self._reference:
                self._values.setdefault(name, []).append(values)
            else:
                self._kll(name).update(values)
        for name, counts in classes.items():
            self._count(name, counts.tolist())

    def merge(self, other: SketchSet) -> None:
        """Take in what `other` has seen.

        Raises:
            InputError: one of the two is a reference, which does not merge.
        """
        theirs = other._sketches
        if (
            self._reference
            or other._reference
            or not all(
                isinstance(sketch, KllSketch)
                for sketch in (*theirs.values(), *self._sketches.values())
            )
        ):
            raise InputError("a reference does not merge", remedy="merge live windows alone")
        self.rows += other.rows
        for name, sketch in theirs.items():
            if isinstance(sketch, KllSketch):
                self._kll(name).merge(sketch)
        for name, counts in other.classes.items():
            self._count(name, counts)

    def encode(self) -> bytes:
        """The set as msgpack, names in order."""
        wire = _Wire(
            v=1,
            rows=self.rows,
            features={
                name: _WireFeature(
                    "kll" if isinstance(sketch, KllSketch) else "quantiles",
                    sketch.count,
                    sketch.encode(),
                )
                for name, sketch in sorted({**self._sketches, **self._exact()}.items())
            },
            classes=dict(sorted(self.classes.items())),
        )
        return msgspec.msgpack.encode(wire)

    @classmethod
    def decode(cls, data: bytes, *, limits: SketchLimits = _LIMITS) -> SketchSet:
        """Read `encode`'s bytes, which may come from anywhere.

        Raises:
            InputError: malformed, of another version, or beyond `limits`.
        """
        if len(data) > limits.set_bytes:
            raise InputError(f"{len(data)} bytes of sketches, at most {limits.set_bytes}")
        try:
            wire = msgspec.msgpack.decode(data, type=_Wire)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"not a set of sketches: {error}") from error
        _check(wire, limits)
        result = cls(limits=limits)
        result.rows, result.classes = wire.rows, wire.classes
        result._sketches = {name: _sketch(name, entry) for name, entry in wire.features.items()}
        return result

    def _kll(self, name: str) -> KllSketch:
        sketch = self._sketches.get(name)
        if sketch is None:
            if len(self._sketches) >= self._limits.features:
                raise InputError(f"more than {self._limits.features} features", where=name)
            sketch = self._sketches[name] = KllSketch()
        if not isinstance(sketch, KllSketch):
            raise InputError("a reference takes no further values", where=name)
        return sketch

    def _count(self, name: str, counts: list[int]) -> None:
        mine = self.classes.get(name)
        if mine is None or len(mine) < len(counts):
            mine = (mine or []) + [0] * (len(counts) - len(mine or []))
            self.classes[name] = mine
        for index, count in enumerate(counts):
            if count:
                mine[index] += count

    def _exact(self) -> dict[str, QuantileSketch]:
        points = self._limits.reference_points
        return {
            name: QuantileSketch.of(np.concatenate(parts), points)
            for name, parts in self._values.items()
            if any(part.size for part in parts)
        }


def _check(wire: _Wire, limits: SketchLimits) -> None:
    if len(wire.features) > limits.features or len(wire.classes) > limits.features:
        raise InputError(f"more than {limits.features} features")
    for name in (*wire.features, *wire.classes):
        if len(name) > limits.name_chars or not name.isprintable():
            raise InputError(f"{name[:40]!r} is not a feature's name")
    if not 0 <= wire.rows <= limits.rows:
        raise InputError(f"{wire.rows} rows is out of range")
    for name, entry in wire.features.items():
        if len(entry.data) > limits.sketch_bytes or not 0 <= entry.count <= limits.rows:
            raise InputError("sketch too large", where=name)
    for name, counts in wire.classes.items():
        if len(counts) > limits.classes or any(not 0 <= c <= limits.rows for c in counts):
            raise InputError("class counts out of range", where=name)


def _sketch(name: str, entry: _WireFeature) -> KllSketch | QuantileSketch:
    if entry.form == "quantiles":
        if len(entry.data) % 4:
            raise InputError("quantiles cut short", where=name)
        return QuantileSketch(entry.count, np.frombuffer(entry.data, "<f4").astype(np.float32))
    sketch = KllSketch(entry.data)
    if sketch.count != entry.count:
        raise InputError("sketch and its count disagree", where=name)
    return sketch
