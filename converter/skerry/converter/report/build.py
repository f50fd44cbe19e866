"""The report: what was made of the source, how good it is, and where it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from skerry.converter.recipe import Recipe
from skerry.converter.report.examples import Example, worst
from skerry.converter.report.steps import shown_steps
from skerry.converter.report.svg import Bar, bars, confusion, histogram
from skerry.converter.result import ArtifactResult, Result
from skerry.devices.output import human_bytes

__all__ = ["Evidence", "build_report"]

_Outputs = Mapping[str, NDArray[Any]]
_MOST_CLASSES = 30
_LONGEST_NAME = 29


@dataclass(frozen=True)
class Evidence:
    """What was computed on the evaluation set.

    Attributes:
        inputs: the first input, [N, …] as callers pass it.
        labels: [N, …].
        source: the source's first output, [N, …].
        artifacts: each artifact's first output, by name.
        names: of the classes, by number; may be empty.
    """

    inputs: NDArray[Any]
    labels: NDArray[Any]
    source: NDArray[Any]
    artifacts: Mapping[str, NDArray[Any]]
    names: tuple[str, ...] = ()


def build_report(result: Result, recipe: Recipe, evidence: Evidence, *, timings: bool) -> bytes:
    """One HTML file that opens without the internet.

    Args:
        timings: whether to show what differs from build to build, such as latency. The copy in
            the bundle does not.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["bytes"] = human_bytes
    text = files("skerry.converter.report").joinpath("report.html.j2").read_text("utf-8")
    names = evidence.names or _numbers(evidence.source)
    page = environment.from_string(text).render(
        result=result,
        recipe=recipe,
        timings=timings,
        sizes=bars(_sizes(result)),
        metrics=_metrics(result),
        latencies=bars(_latencies(result)) if timings else Markup(""),
        layers=bars(_layers(result)),
        histograms=_histograms(result),
        steps=shown_steps(result),
        examples=_examples(result, recipe, evidence, names),
        confusions=_confusions(result, evidence, names),
    )
    return page.encode()


def _numbers(scores: NDArray[Any]) -> tuple[str, ...]:
    return tuple(str(number) for number in range(scores.shape[-1])) if scores.ndim == 2 else ()


def _sizes(result: Result) -> list[Bar]:
    rows = []
    for baseline in result.source.baselines:
        rows.append(
            Bar(
                f"source, {baseline.format} fp32",
                baseline.bytes,
                human_bytes(baseline.bytes),
                "source",
            )
        )
        rows += [
            Bar(one.name, one.bytes, f"{human_bytes(one.bytes)} · {one.bytes_ratio:.3f}×")
            for one in _of(result, baseline.format)
        ]
    return rows


def _of(result: Result, form: str) -> list[ArtifactResult]:
    return [one for one in result.artifacts if one.format == form]


def _metrics(result: Result) -> Markup:
    rows = [Bar("source", result.source.metric, f"{result.source.metric:.2f}", "source")]
    if result.steps:
        rows.append(
            Bar("after the steps", result.model_metric, f"{result.model_metric:.2f}", "model")
        )
    if result.quantized_metric is not None:
        text = f"{result.quantized_metric:.2f}"
        rows.append(Bar("fake-quantized", result.quantized_metric, text, "model"))
    rows += [
        Bar(one.name, one.metric, f"{one.metric:.2f} ({0.0 - one.metric_drop:+.2f})")
        for one in result.artifacts
    ]
    lowest = min(row.value for row in rows)
    return bars(rows, least=max(0.0, np.floor(lowest / 10) * 10 - 10))


def _layers(result: Result) -> list[Bar]:
    """Signal-to-noise ratio of every layer; the longer, the better."""
    return [
        Bar(
            f"{one.layer} {one.operation}"[-_LONGEST_NAME:],
            one.gathered_db,
            f"{one.gathered_db:.1f} dB · own {one.own_db:.1f}",
            "model",
        )
        for one in result.layers
    ]


def _histograms(result: Result) -> list[tuple[str, str, Markup]]:
    """Name, words and plot of every activation, those that lose most first."""
    return [
        (
            f"{one.layer} {one.operation}"[-_LONGEST_NAME:],
            f"{one.low:.3g} to {one.high:.3g}, {100 * one.clipped:.2g}% beyond",
            histogram(one.counts, (one.least, one.most), (one.low, one.high)),
        )
        for one in sorted(result.histograms, key=lambda one: -one.clipped)
    ]


def _latencies(result: Result) -> list[Bar]:
    rows = []
    for baseline in result.source.baselines:
        if baseline.latency_ms is None:
            continue
        text = f"{baseline.latency_ms.p50:.3f} ms"
        rows.append(Bar(f"source, {baseline.format} fp32", baseline.latency_ms.p50, text, "source"))
        for one in _of(result, baseline.format):
            if one.latency_ms is not None and one.latency_ratio is not None:
                text = f"{one.latency_ms.p50:.3f} ms · {one.latency_ratio:.2f}×"
                rows.append(Bar(one.name, one.latency_ms.p50, text))
    return rows


def _examples(
    result: Result, recipe: Recipe, evidence: Evidence, names: Sequence[str]
) -> dict[str, list[Example]]:
    spec = next(iter(recipe.input.values()))
    return {
        one.name: worst(
            evidence.source,
            evidence.artifacts[one.name],
            evidence.labels,
            evidence.inputs,
            spec,
            names,
        )
        for one in result.artifacts
    }


def _confusions(result: Result, evidence: Evidence, names: Sequence[str]) -> dict[str, Markup]:
    """Per artifact, where labels and answers are class numbers and there are few classes."""
    labels, classes = evidence.labels, len(names)
    if not 1 < classes <= _MOST_CLASSES or labels.dtype.kind not in "iu":
        return {}
    alike = labels.shape == evidence.source.shape[:-1] and classes >= evidence.source.shape[-1]
    if not alike or labels.min() < 0 or labels.max() >= classes:
        return {}  # a metric of the user's own reads them otherwise
    found = {}
    for one in result.artifacts:
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (labels, evidence.artifacts[one.name].argmax(-1)), 1)
        found[one.name] = confusion(counts, names)
    return found
