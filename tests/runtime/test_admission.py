from hypothesis import given
from hypothesis import strategies as st

from skerry.runtime.serve.admission import TokenBucket


def test_a_burst_then_the_rate() -> None:
    bucket = TokenBucket(rate=10.0, burst=2)
    assert [bucket.take(100.0) for _ in range(2)] == [0.0, 0.0]
    assert 0.09 < bucket.take(100.0) <= 0.1
    assert bucket.take(100.1) == 0.0
    assert bucket.take(100.1) > 0.0


@given(
    st.floats(0.5, 100),
    st.integers(1, 20),
    st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_never_more_than_rate_and_burst(rate: float, burst: int, gaps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst), 1000.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now) == 0.0
    assert taken <= burst + rate * sum(gaps) + 1e-6


@given(st.floats(0.5, 100), st.integers(1, 5), st.integers(0, 50))
def test_waiting_as_long_as_it_says_is_enough(rate: float, burst: int, calls: int) -> None:
    bucket = TokenBucket(rate, burst)
    for _ in range(calls + burst):
        bucket.take(50.0)
    wait = bucket.take(50.0)
    assert wait > 0.0
    assert bucket.take(50.0 + wait + 1e-6) == 0.0
