"""The CPUs this process may use: those of its affinity, how strong each is, and its quota."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skerry.devices.cgroup import cpu_quota

__all__ = ["Cpu", "Cpus", "usable_cpus"]

_STRONGEST = 1024


class Cpu(NamedTuple):
    """One CPU: its number, and its strength where the strongest of the machine is 1024."""

    number: int
    capacity: int = _STRONGEST


@dataclass(frozen=True, slots=True)
class Cpus:
    """What a process may use.

    Attributes:
        cpus: those it may run on, by number.
        quota: how many CPUs' worth of time it may use; None without a limit.
    """

    cpus: tuple[Cpu, ...]
    quota: float | None = None

    @property
    def at_once(self) -> int:
        """Threads that can compute at once without being held back, at least 1."""
        quota = len(self.cpus) if self.quota is None else math.ceil(self.quota)
        return max(1, min(len(self.cpus), quota))


def usable_cpus(root: Path = Path("/"), numbers: Iterable[int] | None = None) -> Cpus:
    """What this process may use now.

    Args:
        root: where `proc` and `sys` are found.
        numbers: instead of the process's own affinity.
    """
    own = os.sched_getaffinity(0) if numbers is None else numbers
    cpus = tuple(Cpu(number, _capacity(root, number)) for number in sorted(own))
    return Cpus(cpus, cpu_quota(root))


def _capacity(root: Path, number: int) -> int:
    """As the kernel says it for machines with several kinds of CPU; there is no file otherwise."""
    path = root / f"sys/devices/system/cpu/cpu{number}/cpu_capacity"
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return _STRONGEST
