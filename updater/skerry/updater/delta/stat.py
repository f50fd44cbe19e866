"""What a patch holds, and where its bytes go."""

from __future__ import annotations

from pathlib import Path

import msgspec

from skerry.devices.errors import InputError
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.segment import Method
from skerry.updater.delta.wire import SEAL_BYTES, PatchFile, read_header

__all__ = ["DeltaStat", "Part", "stat"]


class Part(msgspec.Struct, frozen=True):
    """One part of a patch.

    Attributes:
        name: what it makes.
        method: how.
        new_bytes: bytes of the result that it makes.
        bytes: bytes of the patch that it takes.
    """

    name: str
    method: str
    new_bytes: int
    bytes: int


class DeltaStat(msgspec.Struct, frozen=True):
    """What a patch holds.

    Attributes:
        patch_size, new_size: bytes.
        old_size: bytes of the base; None where the base is not read.
        parts: their `bytes` add up to `patch_size`.
    """

    patch_size: int
    new_size: int
    old_size: int | None
    parts: tuple[Part, ...]

    @property
    def ratio(self) -> float:
        """Patch bytes per byte of the result."""
        return self.patch_size / self.new_size if self.new_size else 0.0


def stat(patch: Path, *, limits: Limits | None = None) -> DeltaStat:
    """What `patch` holds, without a base.

    Raises:
        BundleError: it is malformed.
        InputError: it cannot be read.
    """
    limits = limits or Limits()
    try:
        with patch.open("rb") as opened:
            file = PatchFile(opened)
            header = read_header(file, limits)
            parts = [Part("header", "", 0, file.offset)]
            made = header.new_size if header.same else 0
            while made < header.new_size:
                begin = file.offset
                length = file.varint(header.new_size - made, "segment")
                size = file.varint(limits.payload_bytes, "segment")
                method = file.take(size, "segment")[:1]
                name = Method(method[0]).name.lower() if method and method[0] < 3 else "?"
                parts.append(Part(f"segment {len(parts)}", name, length, file.offset - begin))
                made += max(length, 1)
            if header.new_size:
                file.take(SEAL_BYTES, "seal")
                parts.append(Part("seal", "", 0, SEAL_BYTES))
            file.end()
            return DeltaStat(file.offset, header.new_size, header.old_size, tuple(parts))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=patch) from error
