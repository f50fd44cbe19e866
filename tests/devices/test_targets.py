"""A machine finds its own row in the table of build targets."""

import pytest

from skerry.devices.profile import Profile
from skerry.devices.targets import TARGETS, target_of


def _machine(arch: str, *isa: str) -> Profile:
    return Profile(arch, isa, cores=1, memory=1 << 30, engines={}, formats=())


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        (_machine("x86_64", "avx2", "avx512_vnni"), "x86-64-vnni"),
        (_machine("x86_64", "avx2", "avx_vnni"), "x86-64-vnni"),
        (_machine("x86_64", "avx2"), "x86-64"),
        (_machine("aarch64", "asimd", "asimddp"), "aarch64-dotprod"),
        (_machine("aarch64", "asimd"), "aarch64"),
        (_machine("armv7l", "neon"), "armv7"),
        (_machine("riscv64"), ""),
    ],
)
def test_a_machine_knows_its_target(profile: Profile, name: str) -> None:
    assert target_of(profile) == name


def test_only_what_saturates_takes_seven_bits() -> None:
    assert {name: row.weight_limit for name, row in TARGETS.items() if row.weight_bits == 7} == {
        "x86-64": 63
    }
