"""When a device looks, how long it waits, and what wakes it; on a clock that is told the time."""

import random
from threading import Event

import pytest

from fakes.clock import FakeClock
from fakes.rig import ListLog
from skerry.devices.errors import CancelledError, InputError, UnavailableError
from skerry.updater.agent.rounds import Rounds
from skerry.updater.agent.schedule import (
    Hours,
    ScheduleLimits,
    pause_after_failures,
    pause_between_polls,
)
from skerry.updater.fetch import BusyError

LIMITS = ScheduleLimits(poll_s=60.0, spread=0.2, first_s=2.0, longest_s=900.0)
DAY = 86_400.0


class Play:
    """Rounds whose one work raises what the script says; ends with it."""

    def __init__(self, script: list[Exception | None], progress: list[int] | None = None) -> None:
        self.script, self.progress = list(script), progress or []
        self.clock, self.stop, self.wake, self.log = FakeClock(), Event(), Event(), ListLog()
        self.starts: list[float] = []
        self.bytes = 0
        self.rounds = Rounds(
            lambda: self.work(),
            [],
            lambda: self.bytes,
            clock=self.clock,
            stop=self.stop,
            wake=self.wake,
            log=self.log,
            limits=LIMITS,
            chance=random.Random(0),
        )

    def work(self) -> None:
        self.starts.append(self.clock.monotonic())
        if self.progress:
            self.bytes += self.progress.pop(0)
        error = self.script.pop(0)
        if not self.script:
            self.stop.set()
        if error is not None:
            raise error

    def pauses(self) -> list[float]:
        self.rounds.run()
        return [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]


def _down() -> Exception:
    return UnavailableError("no network")


def test_polls_are_spread_around_their_interval() -> None:
    pauses = Play([None] * 50).pauses()
    assert all(48.0 <= pause <= 72.0 for pause in pauses)
    assert max(pauses) - min(pauses) > 5.0


def test_failures_double_the_pause_up_to_a_limit() -> None:
    pauses = Play([_down() for _ in range(14)]).pauses()
    for n, pause in enumerate(pauses):
        longest = min(900.0, 2.0 * 2**n)
        assert longest / 2 <= pause <= longest


def test_success_and_progress_begin_anew() -> None:
    pauses = Play([_down(), _down(), _down(), None, _down(), None]).pauses()
    assert pauses[2] >= 4.0
    assert pauses[4] <= 2.0
    slow = Play([_down() for _ in range(6)], progress=[100] * 6).pauses()
    assert all(pause <= 2.0 for pause in slow)


def test_a_server_that_asks_for_time_gets_it() -> None:
    assert Play([BusyError("busy", retry_after=5_000.0), None]).pauses() == [5_000.0]


def test_an_interrupted_round_begins_again_at_once() -> None:
    assert Play([CancelledError("woken"), None]).pauses() == [0.0]


def test_a_fault_of_our_own_does_not_end_the_rounds() -> None:
    play = Play([ZeroDivisionError("a bug"), None])
    assert len(play.pauses()) == 1
    assert play.log.events == ["fault"]


def test_a_work_that_fails_does_not_keep_the_others_from_theirs() -> None:
    done: list[str] = []

    def fails() -> None:
        raise _down()

    rounds = Rounds(
        lambda: done.append("poll"),
        [fails],
        lambda: 0,
        clock=FakeClock(),
        stop=Event(),
        wake=Event(),
        log=ListLog(),  # type: ignore[arg-type]
        limits=LIMITS,
        chance=random.Random(0),
    )
    assert 48.0 <= rounds.once() <= 72.0
    assert done == ["poll"]


def test_a_wake_up_ends_the_pause_and_a_fleet_does_not_come_at_once() -> None:
    play = Play([None, None, None])
    work = play.work

    def woken() -> None:
        work()
        play.wake.set()

    play.work = woken  # type: ignore[method-assign]
    pauses = play.pauses()
    assert all(0 < pause <= LIMITS.wake_spread_s for pause in pauses)


def test_pauses_are_pure() -> None:
    assert pause_between_polls(LIMITS, random.Random(1)) == pause_between_polls(
        LIMITS, random.Random(1)
    )
    assert pause_after_failures(1_000, None, LIMITS, random.Random(1)) <= 900.0


@pytest.mark.parametrize(
    ("text", "hour", "wait_h"),
    [
        ("22:00-06:00", 23.0, 0.0),
        ("22:00-06:00", 5.99, 0.0),
        ("22:00-06:00", 6.0, 16.0),
        ("22:00-06:00", 21.5, 0.5),
        ("01:00-02:00", 0.0, 1.0),
        ("01:00-02:00", 2.0, 23.0),
        ("00:00-24:00", 0.0, None),
        ("7-8", 0.0, None),
        ("07:00-07:00", 0.0, None),
    ],
)
def test_hours(text: str, hour: float, wait_h: float | None) -> None:
    midnight = 20_000 * DAY
    if wait_h is None:
        with pytest.raises(InputError):
            Hours.parse(text)
        return
    wait = Hours.parse(text).wait(midnight + hour * 3_600)
    assert wait == pytest.approx(wait_h * 3_600, abs=1.0)


def test_the_first_of_several_windows_counts() -> None:
    windows = [Hours.parse("10:00-11:00"), Hours.parse("04:00-05:00")]
    assert Hours.until_open(windows, 20_000 * DAY) == 4 * 3_600
    assert Hours.until_open([], 0.0) == 0.0
