"""A disk whose power can be cut at any operation.

Work goes to real files below one folder, so that everything can read them. Beside that the disk
keeps what a power cut would leave: the bytes of each file as of its last `sync`, the names in each
folder as of its last `sync_folder`. What does not pass through the disk may not survive.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from skerry.devices.files import RealDisk

After = Literal["lost", "kept", "torn"]
"""What a cut does to what was not synced: all lost, all kept, or chance decides for each."""


class QuickDisk(RealDisk):
    """A disk that does not wait for the medium, for tests that cut no power."""

    def sync(self, file: BinaryIO) -> None:
        file.flush()

    def sync_folder(self, folder: Path) -> None:
        pass


class PowerCut(BaseException):
    """The machine has stopped. Nothing in it runs after this."""


@dataclass
class _Folder:
    names: dict[str, int | None] = field(default_factory=dict)
    """Name to inode of a file, or to None for a folder."""


class CuttableDisk:
    """`Disk` below `root`.

    Attributes:
        count: operations so far.
        cut_at: the operation before which the power fails; a write is cut in its middle.
        names: what each operation was.
    """

    def __init__(self, root: Path, cut_at: int | None = None) -> None:
        self.root, self.cut_at = root, cut_at
        self.count, self.off = 0, False
        self.names: list[str] = []
        self._real = QuickDisk()
        self._bytes: dict[int, bytes] = {}
        self._folders: dict[Path, _Folder] = {}
        self._pins: dict[int, int] = {}
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            self._keep_folder(folder)
            for path in folder.iterdir():
                if path.is_file():
                    self._bytes[path.stat().st_ino] = path.read_bytes()

    # Disk

    def write(self, file: BinaryIO, data: bytes) -> None:
        if self._fails("write"):
            file.write(data[: len(data) // 2])
            file.flush()
            raise PowerCut
        self._real.write(file, data)

    def sync(self, file: BinaryIO) -> None:
        self._step("sync")
        file.flush()
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as same:
            node = os.fstat(same.fileno()).st_ino
            self._bytes[node] = same.read()
            self._pin(node, same.fileno())

    def replace(self, source: Path, target: Path) -> None:
        self._step("replace")
        self._real.replace(source, target)

    def unlink(self, path: Path) -> None:
        self._step("unlink")
        self._real.unlink(path)

    def sync_folder(self, folder: Path) -> None:
        self._step("sync_folder")
        self._keep_folder(folder)

    # The cut

    def crash(self, after: After, chance: random.Random) -> None:
        """Make the files what a power cut would leave. The disk is not used again."""
        files = dict(self._survivors(self.root, after, chance))
        for path in list(self.root.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path, data in sorted(files.items()):
            if data is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.write_bytes(data)
        self.close()

    def close(self) -> None:
        for handle in self._pins.values():
            os.close(handle)
        self._pins.clear()

    def _survivors(
        self, folder: Path, after: After, chance: random.Random
    ) -> Iterator[tuple[Path, bytes | None]]:
        durable = self._folders.get(folder, _Folder()).names
        current = _listing(folder)
        for name in sorted(durable.keys() | current.keys()):
            use = after == "kept" or (after == "torn" and chance.random() < 0.5)
            names = current if use else durable
            if name not in names:
                continue
            path, node = folder / name, names[name]
            if node is None:
                yield path, None
                yield from self._survivors(path, after, chance)
            else:
                yield path, self._content(path, node, after, chance)

    def _content(self, path: Path, node: int, after: After, chance: random.Random) -> bytes:
        synced = self._bytes.get(node, b"")
        if after == "lost" or not path.exists() or path.stat().st_ino != node:
            return synced
        written = path.read_bytes()
        if after == "kept" or written == synced:
            return written
        some = written[: chance.randint(0, len(written))]
        torn = some + b"\0" * (len(written) - len(some))
        return chance.choice([synced, some, torn, written])

    def _step(self, name: str) -> None:
        if self._fails(name):
            raise PowerCut

    def _fails(self, name: str) -> bool:
        if self.off:
            raise PowerCut
        self.off = self.count == self.cut_at
        self.count += 1
        self.names.append(name)
        return self.off

    def _keep_folder(self, folder: Path) -> None:
        if not folder.is_relative_to(self.root):
            return
        names = _listing(folder)
        for name, node in names.items():
            if node is not None and node not in self._pins:
                with suppress(OSError), open(folder / name, "rb") as file:
                    self._pin(node, file.fileno())
        self._folders[folder] = _Folder(names)

    def _pin(self, node: int, handle: int) -> None:
        """Keep the inode's number from being used for another file."""
        if node not in self._pins:
            self._pins[node] = os.dup(handle)


def _listing(folder: Path) -> dict[str, int | None]:
    if not folder.is_dir():
        return {}
    return {
        entry.name: None if entry.is_dir(follow_symlinks=False) else entry.inode()
        for entry in os.scandir(folder)
    }
