"""Reads a `Profile` off the machine: a few files below /proc and /sys, no engine imported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from skerry.devices.cgroup import memory_limit
from skerry.devices.cpus import usable_cpus
from skerry.devices.profile import Profile

__all__ = ["probe"]

_KERNEL_FLAGS = frozenset(
    [
        "sse4_1",
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "neon",
        "asimddp",
        "asimdhp",
        "fphp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
        "vfpv4",
    ]
)
# ONNX Runtime comes as one distribution for each kind of accelerator.
_BUILDS = ("", "-gpu", "-openvino", "-qnn", "-migraphx", "-rocm")
# Engine, the distributions that provide it (the first found counts), the format it runs.
_ENGINES = (
    ("onnxruntime", tuple(f"onnxruntime{build}" for build in _BUILDS), "onnx"),
    ("litert", ("ai-edge-litert", "tflite-runtime"), "tflite"),
)


def probe(root: Path = Path("/")) -> Profile:
    """The profile of this machine, as this process may use it (affinity and cgroup limits count).

    Args:
        root: where `proc` and `sys` are found.
    """
    found = [(name, _installed(packages), runs) for name, packages, runs in _ENGINES]
    libc, libc_version = platform.libc_ver()
    return Profile(
        arch=platform.machine(),
        isa=_instruction_sets(root),
        cores=usable_cpus(root).at_once,
        memory=_memory(root),
        engines={name: has for name, has, _ in found if has},
        formats=tuple(runs for _, has, runs in found if has),
        system=f"{platform.system()} {platform.release()} {libc} {libc_version}".rstrip(),
    )


def _installed(packages: tuple[str, ...]) -> str:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def _instruction_sets(root: Path) -> tuple[str, ...]:
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip().lower() in {"flags", "features"}:
            return tuple(sorted(_KERNEL_FLAGS & set(value.split())))
    return ()


def _memory(root: Path) -> int:
    total = 0
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
            break
    limit = memory_limit(root)
    return total if limit is None or not total else min(total, limit)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
