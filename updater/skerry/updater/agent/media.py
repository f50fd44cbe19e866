"""Updates that are carried: a folder with the same metadata and blobs as a server's.

An agent that runs is asked by a file in its home and a signal, so that it need not stop.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically
from skerry.updater.agent.download import DownloadLimits
from skerry.updater.agent.parts import Parts
from skerry.updater.agent.update import Outcome
from skerry.updater.trust.media import MEDIA_URL, FolderFetcher

__all__ = ["ask_for", "take_asked", "update_from"]

_FILE = "media.path"
_LIMIT_BYTES = 4_096


def update_from(parts: Parts, folder: Path) -> Outcome:
    """Bring the device to what the medium in `folder` assigns to it.

    Raises:
        SkerryError: as `Updater.poll`.
    """
    fetcher = FolderFetcher(folder)
    downloader = parts.downloader(fetcher, MEDIA_URL, DownloadLimits())
    parts.log("medium", folder=folder)
    trust = parts.trust(fetcher, MEDIA_URL, carried=True)
    return parts.updater(trust, parts.fetching(downloader, trust)).poll()


def ask_for(home: Path, folder: Path, worker: int) -> None:
    """Have the agent that runs in `home` update from `folder`."""
    write_atomically(home / _FILE, os.fsencode(folder.resolve()))
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGHUP)


def take_asked(home: Path) -> Path | None:
    """The folder that was asked for, once.

    Raises:
        InputError: it is none.
    """
    path = home / _FILE
    try:
        with path.open("rb") as file:
            folder = Path(os.fsdecode(file.read(_LIMIT_BYTES)))
    except FileNotFoundError:
        return None
    path.unlink(missing_ok=True)
    if not folder.is_dir():
        raise InputError("is no folder", where=folder, remedy="is the medium still there?")
    return folder
