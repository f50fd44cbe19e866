"""Metrics of a task, in points from 0 to 100 where more is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.converter.userfile import UserFunction
from skerry.devices.errors import InputError

__all__ = ["METRICS", "Metric", "agreement", "metric_by_name", "snr_db"]

_Array = NDArray[Any]
Metric = Callable[[Mapping[str, _Array], _Array], float]

_HIGHEST_SNR_DB = 200.0


def _top(count: int, outputs: Mapping[str, _Array], labels: _Array) -> float:
    scores = next(iter(outputs.values()))
    scores = scores.reshape(-1, scores.shape[-1])
    if count == 1:
        hits = scores.argmax(-1) == labels.ravel()
    else:
        best = np.argpartition(-scores, min(count, scores.shape[-1]) - 1, axis=-1)[:, :count]
        hits = (best == labels.reshape(-1, 1)).any(-1)
    return 100.0 * float(hits.mean())


def _top1(outputs: Mapping[str, _Array], labels: _Array) -> float:
    return _top(1, outputs, labels)


def _top5(outputs: Mapping[str, _Array], labels: _Array) -> float:
    return _top(5, outputs, labels)


METRICS: dict[str, Metric] = {"top1": _top1, "top5": _top5}


def metric_by_name(text: str, folder: Path) -> Metric:
    """A metric of ours, or `file.py:function(outputs by name, labels) -> points`.

    Raises:
        InputError: there is no such metric, its file cannot be run, or it does not give a finite
            number.
    """
    if text in METRICS:
        return METRICS[text]
    function = UserFunction.parse(text, folder)
    if function is None:
        raise InputError(f"there is no metric {text!r}", remedy=f"there are: {', '.join(METRICS)}")

    function.load()  # before any work; and what it imports is known from here on

    def users(outputs: Mapping[str, _Array], labels: _Array) -> float:
        value = float(function.call(dict(outputs), labels))
        if not np.isfinite(value):
            raise InputError(f"the metric gave {value}", where=function)
        return value

    return users


def agreement(one: _Array, other: _Array) -> float:
    """The share of rows, 0 to 1, whose argmax over the last axis is the same."""
    return float((one.argmax(-1) == other.argmax(-1)).mean())


def snr_db(reference: _Array, found: _Array) -> float:
    """Signal-to-noise ratio in decibels: 10 log10(Σ reference² / Σ (reference - found)²).

    Identical outputs give 200 dB, the largest value returned. Infinities that both have are no
    noise; any other value that is not finite gives -200 dB, the smallest.
    """
    reference, found = reference.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(reference == found, 0.0, reference - found)
    noise = float(np.square(difference).sum())
    signal = float(np.square(np.where(np.isfinite(reference), reference, 0.0)).sum())
    if noise == 0.0:
        return _HIGHEST_SNR_DB
    if signal == 0.0 or not np.isfinite(noise):
        return -_HIGHEST_SNR_DB
    return float(min(_HIGHEST_SNR_DB, 10.0 * np.log10(signal / noise)))
