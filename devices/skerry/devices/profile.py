"""The hardware facts that choose an artifact for a device."""

from __future__ import annotations

import msgspec

from skerry.devices.errors import InputError

__all__ = ["PROFILE_LIMIT_BYTES", "Profile"]

PROFILE_LIMIT_BYTES = 16_384
"""The longest encoded profile that is read, in bytes."""


class Profile(msgspec.Struct, frozen=True):
    """What a machine offers to a model.

    Attributes:
        arch: as `uname -m` says it: `x86_64`, `aarch64`, ….
        isa: instruction sets that matter to kernels, as /proc/cpuinfo names them, sorted.
        cores: CPUs this process may use at once, at least 1.
        memory: bytes this process may use.
        engines: inference engines installed, name to version.
        formats: artifact formats those engines run, preferred first.
        system: operating system and C library, for people.
    """

    arch: str
    isa: tuple[str, ...]
    cores: int
    memory: int
    engines: dict[str, str]
    formats: tuple[str, ...]
    system: str = ""

    def has(self, flag: str) -> bool:
        """Whether the processor has the instruction set `flag`."""
        return flag in self.isa

    def encode(self) -> bytes:
        """The profile as deterministic JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, data: bytes) -> Profile:
        """Read a profile.

        Raises:
            InputError: it is too long, malformed or incomplete.
        """
        if len(data) > PROFILE_LIMIT_BYTES:
            raise InputError(f"a profile of {len(data)} bytes is too long", where="profile")
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"not a profile: {error}", where="profile") from error
