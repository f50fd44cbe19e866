import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.devices.errors import InputError
from skerry.telemetry.histogram import Histogram

SECONDS = st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=200)


def counted(values, scale=4):
    histogram = Histogram(scale=scale)
    for value in values:
        histogram.add(value)
    return histogram


@given(SECONDS, st.floats(0, 1))
def test_a_quantile_is_within_the_stated_error(values, rank):
    histogram = counted(values)
    truth = sorted(values)[max(1, math.ceil(rank * len(values))) - 1]
    assert histogram.quantile(rank) == pytest.approx(truth, rel=histogram.relative_error * 1.0001)


@given(SECONDS, SECONDS, st.integers(0, 6), st.integers(0, 6))
def test_merging_is_counting_together(left, right, fine, coarse):
    merged = counted(left, fine)
    merged.merge(counted(right, coarse))
    together = counted(left + right, min(fine, coarse))
    assert merged.count == together.count
    assert (merged.low, merged.high) == (together.low, together.high)
    assert merged.total == pytest.approx(together.total)
    for rank in (0.0, 0.5, 0.99, 1.0):
        assert merged.quantile(rank) == pytest.approx(
            together.quantile(rank), rel=2.1 * merged.relative_error
        )


@given(SECONDS)
def test_it_comes_back_from_bytes(values):
    histogram = counted(values)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(histogram), type=Histogram) == histogram


@pytest.mark.parametrize(
    "wire",
    [
        {"scale": 99},
        {"count": 5},
        {"count": -1, "buckets": {0: -1}},
        {"count": 1, "buckets": {10**9: 1}},
        {"count": 1, "buckets": {0: 1}, "total": math.inf},
        {"count": 1, "buckets": {0: 1}, "total": 1.7e308},
        {"count": 1, "buckets": {0: 1}, "total": -1.0},
        {"count": 2**63, "buckets": {0: 2**63}},
        {"count": 1, "buckets": {0: 1}, "low": 1.0, "high": 1e300},
        {"count": 1, "buckets": {0: 1}, "low": 2.0, "high": 1.0},
    ],
)
def test_what_cannot_have_been_counted_is_refused(wire):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wire), type=Histogram)


def test_edges():
    assert Histogram().quantile(0.5) == 0.0
    assert counted([0.0]).quantile(0.5) == 2.0**-30
    with pytest.raises(InputError):
        Histogram().add(math.nan)


def test_what_is_added_up_can_always_be_read_again():
    most = Histogram(count=2**48, total=2.0**78, low=1.0, high=2.0**30, buckets={479: 2**48})
    total = Histogram()
    for _ in range(3):
        total.merge(most)
    assert (total.count, total.total) == (2**48, 2.0**78)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(total), type=Histogram) == total
