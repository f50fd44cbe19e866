from threading import Event

import pytest

from fakes.clock import FakeClock
from skerry.devices.clock import Clock, SystemClock


@pytest.fixture(params=[SystemClock, FakeClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    return request.param()


def test_waiting_ends_when_the_event_is_set_or_the_time_is_up(clock: Clock) -> None:
    event = Event()
    before = clock.monotonic()
    assert clock.wait(event, 0.01) is False
    assert clock.monotonic() >= before + 0.01
    event.set()
    assert clock.wait(event, 3600) is True


def test_a_negative_wait_returns_at_once(clock: Clock) -> None:
    assert clock.wait(Event(), -5) is False


def test_wall_time_is_seconds_since_1970(clock: Clock) -> None:
    assert clock.now() > 1_600_000_000
