"""Which loaded model makes way for another. Rules over how often each is asked for.

Closing the one that was used longest ago would throw out a busy model for each of many that are
asked once, and, where a few more than fit are asked for in turn, every one just before its next
call. So what is asked often stays, and among equals one place takes all the changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Heat", "Resident", "victim"]

_CLEARLY = 2.0


class Heat:
    """Calls, each counting half as much after every `half_life_s`."""

    __slots__ = ("_at", "_half_life_s", "_value")

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._value = self._at = 0.0

    def touch(self, now: float) -> None:
        """Count a call at `now`, steady time in seconds."""
        self._value = self.at(now) + 1.0
        self._at = now

    def at(self, now: float) -> float:
        """How much the calls so far count at `now`."""
        age = max(0.0, now - self._at) / self._half_life_s
        return self._value * 0.5**age if age < 1000 else 0.0


class Resident(NamedTuple):
    """A loaded model: its heat, and when it was loaded."""

    heat: float
    loaded_at: float


def victim(residents: Sequence[Resident], heat: float) -> int:
    """Which of `residents`, of which there is one, makes way for a model of `heat`.

    The coldest, if it is clearly colder; else the latest come of those not clearly hotter; else
    the coldest all the same.
    """
    order = range(len(residents))
    coldest = min(order, key=lambda n: residents[n].heat)
    if residents[coldest].heat * _CLEARLY < heat:
        return coldest
    alike = [n for n in order if residents[n].heat <= heat * _CLEARLY]
    return max(alike, key=lambda n: residents[n].loaded_at) if alike else coldest
