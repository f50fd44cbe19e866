"""Metrics and gates: pure, so told in numbers."""

from pathlib import Path

import numpy as np
import pytest

from skerry.converter.gates import Measured, Verdict, judge
from skerry.converter.metric import METRICS, agreement, metric_by_name, snr_db
from skerry.converter.recipe import Gate
from skerry.devices.errors import InputError

_SCORES = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])
_LABELS = np.array([1, 0, 0, 1])

_GOOD = Measured(
    accuracy_drop=0.2, bytes_ratio=0.26, latency_ratio=0.4, agreement=0.995, parity=0.1, snr_db=31.0
)


def test_metrics_in_points() -> None:
    assert METRICS["top1"]({"y": _SCORES}, _LABELS) == 50.0
    assert METRICS["top5"]({"y": _SCORES}, _LABELS) == 100.0
    ranked = np.argsort(np.argsort(np.arange(40.0).reshape(4, 10), axis=1), axis=1)
    assert METRICS["top5"]({"y": ranked}, np.array([9, 5, 4, 0])) == 50.0


def test_a_metric_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def half(outputs, labels): return 50.0\ndef odd(outputs, labels): return float('nan')\n"
    )
    assert metric_by_name("mine.py:half", tmp_path)({"y": _SCORES}, _LABELS) == 50.0
    with pytest.raises(InputError, match="gave nan"):
        metric_by_name("mine.py:odd", tmp_path)({"y": _SCORES}, _LABELS)


def test_agreement_and_noise() -> None:
    other = _SCORES.copy()
    other[0] = [0.9, 0.1, 0.0]
    assert agreement(_SCORES, other) == 0.75
    signal = np.array([3.0, 4.0])
    assert snr_db(signal, signal) == 200.0
    assert snr_db(signal, signal * 0.9) == pytest.approx(20.0)
    assert snr_db(signal, np.zeros(2)) == pytest.approx(0.0)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_the_worst_noise(broken: float) -> None:
    signal, found = np.array([3.0, 4.0]), np.array([3.0, broken])
    assert snr_db(signal, found) == -200.0
    assert snr_db(found, signal) == -200.0
    masked = np.array([3.0, -np.inf])
    assert snr_db(masked, masked) == 200.0
    assert snr_db(masked, np.array([2.7, -np.inf])) == pytest.approx(20.0)


def test_limits_that_are_kept_pass() -> None:
    gate = Gate(accuracy_drop=0.2, bytes_ratio=0.28, latency_ratio=0.5, agreement=0.99, snr_db=30)
    verdicts = judge(gate, _GOOD)
    assert set(verdicts) == {"accuracy_drop", "bytes_ratio", "latency_ratio", "agreement", "snr_db"}
    assert all(verdict.passed for verdict in verdicts.values())


@pytest.mark.parametrize(
    ("gate", "value"),
    [
        (Gate(accuracy_drop=0.1), 0.2),
        (Gate(bytes_ratio=0.25), 0.26),
        (Gate(latency_ratio=0.3), 0.4),
        (Gate(agreement=0.999), 0.995),
        (Gate(parity=0.05), 0.1),
        (Gate(snr_db=40), 31.0),
    ],
)
def test_a_limit_that_is_not_kept_fails(gate: Gate, value: float) -> None:
    (verdict,) = judge(gate, _GOOD).values()
    assert verdict == Verdict(verdict.limit, value, False)


def test_what_cannot_be_measured_is_not_judged() -> None:
    unmeasured = Measured(
        accuracy_drop=0, bytes_ratio=1, latency_ratio=None, agreement=1, parity=0, snr_db=200
    )
    assert judge(Gate(latency_ratio=0.5), unmeasured) == {}
