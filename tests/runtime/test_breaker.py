import random

import pytest

from skerry.runtime.breaker import Breaker, BreakerLimits

LIMITS = BreakerLimits(failures=3, rest_s=2.0)


def _opened() -> Breaker:
    breaker = Breaker(LIMITS)
    for _ in range(3):
        assert breaker.allows(10.0)
        breaker.failed(10.0)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    assert not _opened().allows(11.9)
    breaker = Breaker(LIMITS)
    for _ in range(10):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.allows(0.0)


def test_after_the_rest_one_call_tries_alone() -> None:
    breaker = _opened()
    assert breaker.allows(12.0)
    assert not breaker.allows(12.0)
    breaker.succeeded()
    assert breaker.allows(12.0)
    assert breaker.allows(12.0)


def test_a_failed_try_opens_it_again() -> None:
    breaker = _opened()
    assert breaker.allows(12.0)
    breaker.failed(12.5)
    assert not breaker.allows(14.4)
    assert breaker.allows(14.5)


@pytest.mark.parametrize("seed", range(5))
def test_a_sick_engine_is_asked_seldom_and_a_healed_one_soon(seed: int) -> None:
    rng, breaker, asked, now = random.Random(seed), Breaker(LIMITS), 0, 0.0
    for _ in range(1000):
        now += rng.uniform(0, 0.02)
        if breaker.allows(now):
            asked += 1
            breaker.failed(now)
    assert asked <= 3 + now / LIMITS.rest_s + 1
    assert breaker.allows(now + LIMITS.rest_s)
    breaker.succeeded()
    assert not breaker.open
