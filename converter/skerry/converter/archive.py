"""A folder as one file: a tar whose bytes depend on names and contents alone."""

from __future__ import annotations

import tarfile
from pathlib import Path

__all__ = ["pack_folder"]


def pack_folder(folder: Path, tar: Path) -> None:
    """Write `folder`'s content as an uncompressed tar: sorted names, no times, no owners.

    It ends with the two empty blocks that end a tar, and is not filled up to the 10 KiB records of
    a tape: of a small model these are a part that counts, and no reader asks for them.
    """
    with tar.open("wb") as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for path in sorted(folder.rglob("*")):
                info = tarfile.TarInfo(path.relative_to(folder).as_posix())
                if path.is_dir():
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(info)
                    continue
                info.size, info.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    archive.addfile(info, file)
        out.truncate(archive.offset)
