"""Build targets: what a kind of machine asks of a model that is quantized for it. One table.

A recipe names one (`target.profile`), and the converter follows its row. A device knows its own
from its `Profile`, so both sides speak of hardware in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from skerry.devices.profile import Profile

__all__ = ["TARGETS", "Target", "target_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One kind of machine.

    Attributes:
        arch: as `uname -m` says it; empty for accelerators, which are not seen from the CPU.
        needs: instruction sets, any one of which makes a machine of this kind; none needed if
            empty.
        weight_bits: of int8 weights. 7 where the 8-bit dot product adds pairs of products in 16
            bits and saturates (`vpmaddubsw`): -63..63 cannot.
        activations: type of ONNX activations. ONNX Runtime fuses uint8 on x86-64 where it leaves
            int8 in floating point; its Arm kernels take int8 as it is.
        per_channel: whether weights may have one scale for each output channel.
        channels: what numbers of channels are best multiples of, since kernels work on so many
            at once (a vector of them; XNNPACK's and MLAS's tiles).
    """

    arch: str = ""
    needs: tuple[str, ...] = ()
    weight_bits: Literal[7, 8] = 8
    activations: Literal["uint8", "int8"] = "uint8"
    per_channel: bool = True
    channels: int = 8

    @property
    def weight_limit(self) -> int:
        """The largest absolute value of a quantized weight."""
        return (1 << (self.weight_bits - 1)) - 1


# The first row that fits a machine is its own.
TARGETS: Mapping[str, Target] = {
    "x86-64-vnni": Target(arch="x86_64", needs=("avx512_vnni", "avx_vnni"), channels=16),
    "x86-64": Target(arch="x86_64", weight_bits=7),
    "aarch64-dotprod": Target(arch="aarch64", needs=("asimddp",), activations="int8"),
    "aarch64": Target(arch="aarch64", activations="int8"),
    "armv7": Target(arch="armv7l", activations="int8"),
    "npu-per-tensor": Target(activations="int8", per_channel=False),
}


def target_of(profile: Profile) -> str:
    """The name of the row that fits the machine of a profile; empty if none does."""
    for name, target in TARGETS.items():
        wanted = target.arch == profile.arch
        if wanted and (not target.needs or any(profile.has(flag) for flag in target.needs)):
            return name
    return ""
