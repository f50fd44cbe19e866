import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skerry.bench.stats import paired_ratio, percentile


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.floats(0, 1))
def test_bounds_hold_the_estimate_and_lie_in_the_sample(values: list[float], share: float) -> None:
    sample = np.array(values)
    found = percentile(sample, share)
    assert sample.min() <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= sample.max()


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    truth = -np.log(1 - 0.9)  # the 90th percentile of the unit exponential
    hits = 0
    for _ in range(400):
        found = percentile(random.exponential(size=500), 0.9)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_a_ratio_survives_a_machine_that_slows_down() -> None:
    random = np.random.default_rng(8)
    drift = np.linspace(1, 5, 300)
    b = drift * random.uniform(0.95, 1.05, 300)
    a = 0.5 * drift * random.uniform(0.95, 1.05, 300)
    ratio = paired_ratio(a, b)
    assert ratio.low <= 0.5 <= ratio.high
    assert ratio.high - ratio.low < 0.02
