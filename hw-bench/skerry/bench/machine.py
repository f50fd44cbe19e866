"""The facts without which a measured number means nothing."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

__all__ = ["Machine", "Reading", "read_machine", "read_now"]

_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_THERMAL = Path("/sys/class/thermal")


class Machine(msgspec.Struct, frozen=True):
    """What does not change during a run. None where the system does not tell."""

    system: str
    arch: str
    cpu: str
    cores: int
    affinity: tuple[int, ...]
    memory_bytes: int
    governor: str | None
    python: str


class Reading(msgspec.Struct, frozen=True):
    """What changes: taken before and after a run. None where the system does not tell."""

    load_1min: float
    frequency_mhz: float | None
    temperature_c: float | None


def read_machine() -> Machine:
    """The facts of the machine this runs on."""
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        arch=platform.machine(),
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        affinity=tuple(sorted(os.sched_getaffinity(0))),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        governor=_text(_CPU / "scaling_governor"),
        python=platform.python_version(),
    )


def read_now() -> Reading:
    """Load, frequency and temperature at this moment."""
    khz = _text(_CPU / "scaling_cur_freq")
    zones = (_text(zone / "temp") for zone in sorted(_THERMAL.glob("thermal_zone*")))
    degrees = [int(zone) / 1000 for zone in zones if zone and zone.lstrip("-").isdigit()]
    return Reading(
        load_1min=os.getloadavg()[0],
        frequency_mhz=int(khz) / 1000 if khz and khz.isdigit() else None,
        temperature_c=max(degrees, default=None),
    )


def _cpu_name() -> str:
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
