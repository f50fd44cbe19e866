import subprocess
import sys
from pathlib import Path

import pytest

from skerry.devices.errors import InputError
from skerry.devices.probe import probe
from skerry.devices.profile import PROFILE_LIMIT_BYTES, Profile


def _machine(
    root: Path, cpuinfo: str, cpu_max: str = "max 100000", memory_max: str = "max"
) -> None:
    (root / "proc").mkdir()
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/meminfo").write_text("MemTotal:        2048000 kB\nMemFree: 1 kB\n")
    (root / "sys/fs/cgroup/cpu.max").write_text(cpu_max + "\n")
    (root / "sys/fs/cgroup/memory.max").write_text(memory_max + "\n")


def test_arm_features_and_x86_flags_are_read(tmp_path: Path) -> None:
    _machine(tmp_path, "processor : 0\nFeatures\t: fp asimd asimddp crc32\n")
    assert probe(tmp_path).isa == ("asimd", "asimddp")
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu avx2 avx512_vnni\n")
    found = probe(tmp_path)
    assert found.has("avx512_vnni")
    assert not found.has("fpu")


def test_a_container_limit_counts(tmp_path: Path) -> None:
    _machine(tmp_path, "", cpu_max="50000 100000", memory_max="268435456")
    found = probe(tmp_path)
    assert (found.cores, found.memory) == (1, 268435456)


def test_a_bare_root_still_gives_a_profile(tmp_path: Path) -> None:
    found = probe(tmp_path)
    assert found.cores >= 1
    assert found.isa == ()


def test_it_round_trips_and_refuses_nonsense() -> None:
    found = probe()
    assert Profile.decode(found.encode()) == found
    for bad in [
        b"",
        b"{}",
        b"[1]",
        b"\x80",
        b'{"x":' + b"[" * 9_999,
        b" " * (PROFILE_LIMIT_BYTES + 1),
    ]:
        with pytest.raises(InputError):
            Profile.decode(bad)


def test_probing_imports_no_engine() -> None:
    code = (
        "import sys; from skerry.devices.probe import probe; probe();"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " {'onnxruntime', 'ai_edge_litert', 'numpy', 'cryptography', 'jwt'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
