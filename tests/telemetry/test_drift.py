import numpy as np
import pytest

from skerry.runtime.sketches import SketchSet
from skerry.telemetry.drift import Thresholds, compare


def sketched(values, scores, *, reference=False):
    result = SketchSet(reference=reference)
    for x, y in zip(np.array_split(values, 20), np.array_split(scores, 20), strict=True):
        result.update({"x": x}, {"y": y})
    return SketchSet.decode(result.encode())


def data(seed, rows, shift=0.0, bias=0.0):
    rng = np.random.default_rng(seed)
    values = rng.normal(shift, 1.0, (rows, 2)).astype(np.float32)
    scores = rng.normal(0, 2, (rows, 5)).astype(np.float32)
    scores[:, 0] += bias
    return values, scores


@pytest.mark.parametrize("rows", [150, 1000, 20_000])
@pytest.mark.parametrize("seed", range(5))
def test_the_same_data_do_not_drift(rows, seed):
    reference = sketched(*data(100, 5000), reference=True)
    report = compare(reference, sketched(*data(seed, rows)))
    assert report.verdict == "ok", report


@pytest.mark.parametrize("seed", range(3))
def test_shifted_inputs_drift(seed):
    reference = sketched(*data(100, 5000), reference=True)
    report = compare(reference, sketched(*data(seed, 2000, shift=0.8)))
    assert report.verdict == "drift"
    assert sorted(report.drifted()) == ["input/x/column/0", "input/x/column/1"]
    assert report.features["output/y/class"].verdict == "ok"
    assert 0 < report.features["input/x/column/0"].js < 1


def test_a_small_shift_is_watched():
    reference = sketched(*data(100, 5000), reference=True)
    report = compare(reference, sketched(*data(1, 5000, shift=0.35)))
    assert report.verdict == "watch"


def test_other_classes_drift():
    reference = sketched(*data(100, 5000), reference=True)
    report = compare(reference, sketched(*data(1, 2000, bias=3.0)))
    assert report.features["output/y/class"].verdict == "drift"


def test_a_constant_that_changes_drifts():
    flat, moved = np.full((500, 1), 3.0), np.full((500, 1), 4.0)
    reference = sketched(flat, flat, reference=True)
    assert compare(reference, sketched(flat, flat)).verdict == "ok"
    assert compare(reference, sketched(moved, moved)).verdict == "drift"


def test_few_values_allow_no_verdict():
    reference = sketched(*data(100, 5000), reference=True)
    assert compare(reference, sketched(*data(1, 60, shift=5))).verdict == "too few"
    assert compare(reference, SketchSet()).verdict == "too few"
    strict = Thresholds(least_count=10)
    assert compare(reference, sketched(*data(1, 60, shift=5)), strict).verdict == "drift"


def test_live_against_live_for_cohorts():
    one, other = sketched(*data(1, 4000)), sketched(*data(2, 4000))
    assert compare(one, other).verdict == "ok"
