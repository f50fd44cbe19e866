import numpy as np
import pytest

from skerry.runtime.sketches import SketchSet
from skerry.telemetry.drift import Thresholds, _by_chance, compare


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


KINDS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "cauchy": lambda rng, n: rng.standard_cauchy(n),
    "poisson": lambda rng, n: rng.poisson(1.5, n),
    "rare": lambda rng, n: rng.random(n) < 0.02,
    "constant": lambda rng, n: np.full(n, 3.0),
}


def table(rng, rows, kinds, *, reference=False, shift=0.0):
    """Sketches of a table with one column of each kind; the first is shifted."""
    columns = {f"c{i}": KINDS[kind](rng, rows) for i, kind in enumerate(kinds)}
    columns["c0"] = columns["c0"] + shift
    result = SketchSet(reference=reference)
    result.add(rows, {name: values.astype(np.float32) for name, values in columns.items()}, {})
    return SketchSet.decode(result.encode())


def classes(rng, rows, shares, *, reference=False):
    result = SketchSet(reference=reference)
    result.add(rows, {}, {"y": rng.multinomial(rows, shares)})
    return SketchSet.decode(result.encode())


@pytest.mark.parametrize(("n", "m"), [(1000, 50), (1000, 100), (100, 2000)])
@pytest.mark.parametrize("kinds", [["normal"], list(KINDS)])
def test_of_many_columns_none_cries_wolf(n, m, kinds):
    rng, limits = np.random.default_rng(64), Thresholds(least_count=50)
    for trial in range(15):
        reference = table(rng, n, (kinds * 64)[:64], reference=True)
        report = compare(reference, table(rng, m, (kinds * 64)[:64]), limits)
        assert report.verdict == "ok", f"seed 64, table {trial}: {report.drifted()}"


@pytest.mark.parametrize(
    ("columns", "shift", "n", "m", "least"),
    [
        (1, 0.5, 5000, 1000, ("watch", "drift")),
        (64, 0.5, 5000, 1000, ("watch", "drift")),
        (64, 1.0, 1000, 300, ("drift",)),
        (10, 1.2, 1000, 100, ("drift",)),
    ],
)
def test_one_column_that_shifts_is_found_among_many(columns, shift, n, m, least):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        reference = table(rng, n, ["normal"] * columns, reference=True)
        report = compare(reference, table(rng, m, ["normal"] * columns, shift=shift))
        assert report.verdict in least, f"seed {seed}"
        quiet = {f.verdict for name, f in report.features.items() if name != "c0"}
        assert quiet <= {"ok"}, f"seed {seed}"


@pytest.mark.parametrize("power", [0, 1])
@pytest.mark.parametrize(
    ("count", "n", "m"), [(10, 1000, 100), (1000, 1000, 5000), (1000, 100_000, 100)]
)
def test_many_classes_do_not_drift_by_themselves(count, power, n, m):
    rng, shares = np.random.default_rng(1000), 1 / np.arange(1.0, count + 1) ** power
    shares /= shares.sum()
    for trial in range(60):
        report = compare(classes(rng, n, shares, reference=True), classes(rng, m, shares))
        assert report.verdict == "ok", f"seed 1000, trial {trial}"


@pytest.mark.parametrize(("count", "n", "m"), [(100, 1000, 100), (1000, 5000, 1000)])
def test_one_class_that_takes_half_drifts(count, n, m):
    rng, shares = np.random.default_rng(3), np.full(count, 1 / count)
    taken = shares / 2 + np.eye(count)[7] / 2
    report = compare(classes(rng, n, shares, reference=True), classes(rng, m, taken))
    assert report.verdict == "drift"


@pytest.mark.parametrize(("n", "m"), [(1000, 50), (100_000, 100), (100, 5000)])
def test_bins_exceed_chance_as_often_as_said(n, m):
    rng, p, alpha, draws = np.random.default_rng(11), np.full(10, 0.1), 1e-2, 20_000
    pairs = zip(rng.multinomial(n, p, draws) / n, rng.multinomial(m, p, draws) / m, strict=True)
    beyond = sum(not _by_chance(one, other, n, m, alpha) for one, other in pairs)
    assert beyond <= 1.3 * alpha * draws, "seed 11"
