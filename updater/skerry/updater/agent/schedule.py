"""When to look again: polls with jitter, growing pauses after failures, hours for downloads."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from skerry.devices.errors import InputError

__all__ = ["Hours", "ScheduleLimits", "pause_after_failures", "pause_between_polls"]

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLimits:
    """How patient a device is.

    Attributes:
        poll_s: seconds between polls.
        spread: share of a pause that chance decides, 0 to 1: a fleet must not march in step.
        first_s: longest pause after one failure, in seconds; doubled by each further one.
        longest_s: no pause grows beyond it, in seconds, unless a server asks for more.
        wake_spread_s: most seconds that a wake-up is put off, by chance.
    """

    poll_s: float = 60.0
    spread: float = 0.2
    first_s: float = 2.0
    longest_s: float = 900.0
    wake_spread_s: float = 0.5


def pause_between_polls(limits: ScheduleLimits, chance: random.Random) -> float:
    """Seconds until the next poll when all is well."""
    return limits.poll_s * (1 + limits.spread * chance.uniform(-1, 1))


def pause_after_failures(
    failures: int, asked: float | None, limits: ScheduleLimits, chance: random.Random
) -> float:
    """Seconds until the next try: doubling, half of it chance, never sooner than was asked for.

    Args:
        failures: how many there were in a row, at least 1.
        asked: what the server asked to wait, in seconds, if it did.
    """
    longest = min(limits.longest_s, limits.first_s * 2.0 ** min(failures - 1, 30))
    return max(longest * chance.uniform(0.5, 1.0), asked or 0.0)


@dataclass(frozen=True, slots=True)
class Hours:
    """One part of the day in UTC, in seconds since midnight; it may run past midnight."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Read `22:00-05:30`.

        Raises:
            InputError: the text has another form, or nothing lies between the two.
        """
        match = _HOURS.fullmatch(text)
        if match is None:
            raise InputError(f"{text[:40]!r} are no hours", remedy="expected HH:MM-HH:MM, in UTC")
        first, second = (60 * int(match[i]) + int(match[i + 1]) for i in (1, 3))
        if first == second:
            raise InputError(f"nothing lies within {text}", remedy="leave it out for any time")
        return cls(60 * first, 60 * second)

    def wait(self, now: float) -> float:
        """Seconds from `now` (epoch) until these hours; 0 within them."""
        at = datetime.fromtimestamp(now, UTC)
        second = 3600 * at.hour + 60 * at.minute + at.second + at.microsecond / 1e6
        length = (self.end - self.begin) % _DAY_S
        since = (second - self.begin) % _DAY_S
        return 0.0 if since < length else _DAY_S - since

    @staticmethod
    def until_open(windows: Sequence[Hours], now: float) -> float:
        """Seconds until the first of `windows` is open; 0 if one is, or there are none."""
        return min((window.wait(now) for window in windows), default=0.0)
