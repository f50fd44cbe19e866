import os
from pathlib import Path

import pytest

from skerry.devices.cgroup import cpu_quota, memory_limit
from skerry.devices.cpus import Cpu, Cpus, usable_cpus


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_the_least_of_all_groups_around_counts(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    top = tmp_path / "sys/fs/cgroup"
    _write(tmp_path / "proc/self/cgroup", "0::/system.slice/skerry.service")
    _write(top / "system.slice/skerry.service/cpu.max", "150000 100000")
    _write(top / "system.slice/skerry.service/memory.max", "max")
    assert (cpu_quota(tmp_path), memory_limit(tmp_path)) == (1.5, None)
    _write(top / "system.slice/cpu.max", "50000 100000")
    _write(top / "system.slice/memory.max", "1000")
    assert (cpu_quota(tmp_path), memory_limit(tmp_path)) == (0.5, 1000)


def test_version_1_is_understood(tmp_path: Path) -> None:
    top = tmp_path / "sys/fs/cgroup"
    _write(tmp_path / "proc/self/cgroup", "5:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/")
    _write(top / "cpu/box/cpu.cfs_quota_us", "300000")
    _write(top / "cpu/box/cpu.cfs_period_us", "100000")
    _write(top / "cpu/cpu.cfs_quota_us", "-1")
    _write(top / "memory/box/memory.limit_in_bytes", "4096")
    assert (cpu_quota(tmp_path), memory_limit(tmp_path)) == (3.0, 4096)


@pytest.mark.parametrize("text", ["", "max 100000", "0 100000", "1 0", "x y", "-1 100000", "\0"])
def test_what_is_no_limit_is_none(tmp_path: Path, text: str) -> None:
    _write(tmp_path / "sys/fs/cgroup/cpu.max", text)
    assert cpu_quota(tmp_path) is None


def test_a_group_outside_its_namespace_is_the_top(tmp_path: Path) -> None:
    _write(tmp_path / "proc/self/cgroup", "0::/../other")
    _write(tmp_path / "sys/fs/cgroup/cpu.max", "100000 100000")
    _write(tmp_path / "sys/fs/other/cpu.max", "1 100000")
    assert cpu_quota(tmp_path) == 1.0


def test_affinity_quota_and_strength_are_read(tmp_path: Path) -> None:
    for number, capacity in ((0, "446"), (4, "1024")):
        _write(tmp_path / f"sys/devices/system/cpu/cpu{number}/cpu_capacity", capacity)
    _write(tmp_path / "sys/fs/cgroup/cpu.max", "150000 100000")
    found = usable_cpus(tmp_path, [4, 0, 5])
    assert found == Cpus((Cpu(0, 446), Cpu(4, 1024), Cpu(5, 1024)), 1.5)
    assert found.at_once == 2
    assert {cpu.number for cpu in usable_cpus().cpus} == os.sched_getaffinity(0)


@pytest.mark.parametrize(("quota", "at_once"), [(None, 3), (0.2, 1), (2.0, 2), (64.0, 3)])
def test_threads_at_once_keep_the_quota(quota: float | None, at_once: int) -> None:
    assert Cpus((Cpu(0), Cpu(1), Cpu(2)), quota).at_once == at_once
