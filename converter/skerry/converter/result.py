"""`result.json`: what a conversion gave, for programs."""

from __future__ import annotations

import msgspec

from skerry.converter.gates import Verdict
from skerry.converter.histograms import Histogram
from skerry.converter.layers import LayerNoise
from skerry.converter.mixed import LayerChoice
from skerry.converter.steps.base import StepRecord
from skerry.runtime.bundle.card import Format

__all__ = ["ArtifactResult", "Baseline", "Latency", "Result", "SourceResult"]


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds for one row on one thread."""

    p50: float
    p99: float


class Baseline(msgspec.Struct, frozen=True):
    """The source itself as fp32 in one format: what artifacts of that format are held against."""

    format: Format
    bytes: int
    latency_ms: Latency | None


class SourceResult(msgspec.Struct, frozen=True):
    """The source on the evaluation set.

    Attributes:
        name, kind: what the user brought.
        parameters: how many numbers it has.
        metric: in points.
        rows: of the evaluation set.
    """

    name: str
    kind: str
    parameters: int
    metric: float
    rows: int
    baselines: tuple[Baseline, ...]


class ArtifactResult(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact, measured.

    Attributes:
        path: relative to the output folder.
        bytes, compressed_bytes: of the file, and of the file as DEFLATE leaves it (zlib, level 9).
        metric, metric_drop: points, and points below the source.
        agreement: share of rows whose argmax is the source's.
        parity: points between it and the fake-quantized model; 0 for unquantized ones.
        reference_agreement: share of rows whose argmax is that of the model it was emitted from.
        snr_db: its outputs against the model before quantization.
        latency_ms, latency_ratio: None where it is not run by its own engine here.
    """

    name: str
    format: Format
    precision: str
    path: str
    bytes: int
    compressed_bytes: int
    bytes_ratio: float
    sha256: str
    metric: float
    metric_drop: float
    agreement: float
    parity: float
    reference_agreement: float
    snr_db: float
    latency_ms: Latency | None
    latency_ratio: float | None
    gates: dict[str, Verdict]

    @property
    def passed(self) -> bool:
        """Whether every gate is kept."""
        return all(verdict.passed for verdict in self.gates.values())


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The whole conversion.

    Attributes:
        bundle: path of the bundle, relative to the output folder.
        manifest: digest of its manifest.
        metric: the metric's name.
        model_metric: points of the model after the steps, before quantization.
        layers: the noise of quantization at every layer, where int8 was asked for.
        histograms: what calibration saw of every activation, and the range chosen, likewise.
        mixed: the level of every layer, where the recipe asks for mixed precision.
        quantized_metric: points of the fake-quantized model, where int8 was asked for.
    """

    model: str
    version: str
    source: SourceResult
    bundle: str
    manifest: str
    metric: str
    model_metric: float
    quantized_metric: float | None
    parameters: int
    artifacts: tuple[ArtifactResult, ...]
    steps: tuple[StepRecord, ...]
    layers: tuple[LayerNoise, ...]
    histograms: tuple[Histogram, ...]
    mixed: tuple[LayerChoice, ...] = ()
    passed: bool

    def encode(self) -> bytes:
        """The result as JSON."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic")) + b"\n"
