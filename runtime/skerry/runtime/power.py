"""Threads and CPUs for an engine: rules from what the process may use and what matters most."""

from __future__ import annotations

from typing import Literal

from skerry.devices.cpus import Cpus
from skerry.runtime.engine.base import EngineOptions

__all__ = ["AWAKE_S", "POWER_MODES", "PowerMode", "engine_options"]

PowerMode = Literal["latency", "balanced", "frugal"]
POWER_MODES: tuple[PowerMode, ...] = ("latency", "balanced", "frugal")

AWAKE_S: dict[PowerMode, float] = {"latency": 0.001, "balanced": 0.00015, "frugal": 0.0}
"""For how long after an answer a server stays awake, `ServeLimits.awake_s`.

`balanced`: about what it takes to fall asleep and be woken, so that staying awake costs no more.
`latency`: up to a core, while a client asks more often than a thousand times a second.
"""

_AS_STRONG = 0.9


def engine_options(mode: PowerMode, cpus: Cpus) -> EngineOptions:
    """What an engine takes of the machine.

    - `latency`: a thread for each of the strongest CPUs that the quota pays for, on those.
    - `balanced`: one thread, wherever the kernel puts it; calls at the same time use more CPUs.
    - `frugal`: one thread, on the weakest kind of CPU, so that the others can sleep.

    Args:
        cpus: as `usable_cpus` gives them, so that affinity and quota are kept.
    """
    if mode == "balanced":
        return EngineOptions()
    if mode == "latency":
        most = max(cpu.capacity for cpu in cpus.cpus)
        strong = [cpu.number for cpu in cpus.cpus if cpu.capacity >= _AS_STRONG * most]
        threads = min(len(strong), cpus.at_once)
        return EngineOptions(threads=threads, cpus=tuple(strong))
    least = min(cpu.capacity for cpu in cpus.cpus)
    weak = [cpu.number for cpu in cpus.cpus if cpu.capacity <= least / _AS_STRONG]
    return EngineOptions(cpus=tuple(weak) if len(weak) < len(cpus.cpus) else (weak[-1],))
