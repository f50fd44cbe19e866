"""Content keys by their ids: each in an envelope for the key of who keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

from skerry.devices.errors import InputError, TrustError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.updater.fetch import Fetcher, fetch_bytes
from skerry.updater.sealing.form import ContentKey, check_key_id
from skerry.updater.sealing.wrap import Agreement, Envelope, unwrap, wrap

__all__ = ["Keyring", "Keys", "NoKeys", "purpose_of"]

_ENVELOPE_BYTES = 4_096


class Keys(Protocol):
    """Knows content keys by their ids."""

    def content_key(self, key: str) -> ContentKey:
        """The key with the id `key`; TrustError if it is not here, or not for us."""


class NoKeys:
    """`Keys` where nothing is sealed."""

    def content_key(self, key: str) -> ContentKey:
        raise TrustError("no keys are kept here", where=key)


def purpose_of(key: str, device: str) -> str:
    """The words that bind an envelope to one content key and one holder."""
    return f"content key {key} for {device}"


class Keyring:
    """`Keys` of a device or server, in a folder: `<key id>.json`, envelopes for its own key.

    While a device's key is being replaced there are two of it, and either may open an envelope.

    Args:
        folder: where; made with the first envelope.
        holder: who this is, by the words that envelopes are bound to: a device's id.
        holders: the device's keys, the present one first.
        disk: the seam through which files are written.
    """

    def __init__(
        self,
        folder: Path,
        holder: str,
        holders: Sequence[Agreement],
        disk: Disk | None = None,
    ) -> None:
        self._folder, self._holder = folder, holder
        self._holders, self._disk = tuple(holders), disk or RealDisk()
        self._known: dict[str, ContentKey] = {}
        self._lock = Lock()

    def has(self, key: str) -> bool:
        """Whether the key with this id is here and opens."""
        try:
            self.content_key(key)
        except (TrustError, InputError):
            return False
        return True

    def content_key(self, key: str) -> ContentKey:
        with self._lock:
            if key not in self._known:
                self._known[key] = self._opened(key)
            return self._known[key]

    def fetch(self, key: str, fetcher: Fetcher, server: str) -> None:
        """See that the key with the id `key` is here; the server hands it out in an envelope.

        Raises:
            TrustError: the server sent another key, or one for another device. Nothing is kept.
            RefusedError, BusyError: as `Fetcher.open`.
        """
        if self.has(key):
            return
        url = f"{server.rstrip('/')}/keys/{self._holder}/{check_key_id(key)}.json"
        data = fetch_bytes(fetcher, url, _ENVELOPE_BYTES)
        try:
            self.take(key, data)
        except InputError as error:
            raise TrustError(error.problem, where=url) from error

    def take(self, key: str, data: bytes) -> None:
        """Keep an envelope that holds the key with the id `key`, once it was opened.

        Raises:
            InputError: it is no envelope.
            TrustError: it is for somebody else, or holds another key.
        """
        self._unwrapped(key, Envelope.decode(data))
        self._keep(key, data)

    def hand_over(self, holder: Agreement) -> None:
        """Wrap every key for `holder` alone, which takes the place of the device's key.

        Each envelope is replaced whole; after a power cut each opens with the old key or the new.
        """
        with self._lock:
            for key in self.ids():
                opened = self._opened(key)
                purpose = purpose_of(key, self._holder)
                self._keep(key, wrap(opened, holder.public_key, purpose).encode())
            self._holders = (holder,)

    def ids(self) -> list[str]:
        """The ids of the keys that are here."""
        if not self._folder.is_dir():
            return []
        return sorted(path.stem for path in self._folder.glob("[0-9a-f]*.json"))

    def collect(self, keep: Iterable[str]) -> None:
        """Forget every key but those in `keep`."""
        useless = sorted(set(self.ids()) - set(keep))
        for key in useless:
            self._known.pop(key, None)
            self._disk.unlink(self._folder / f"{key}.json")
        if useless:
            self._disk.sync_folder(self._folder)

    def _keep(self, key: str, data: bytes) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True)
            self._disk.sync_folder(self._folder.parent)
        write_atomically(self._folder / f"{key}.json", data, mode=0o600, disk=self._disk)

    def _opened(self, key: str) -> ContentKey:
        path = self._folder / f"{check_key_id(key)}.json"
        try:
            with path.open("rb") as file:
                return self._unwrapped(key, Envelope.decode(file.read(_ENVELOPE_BYTES)))
        except FileNotFoundError as error:
            raise TrustError(
                "the key of this release is not here", where=key, remedy="it will be asked for"
            ) from error
        except OSError as error:
            raise TrustError(f"cannot read: {error.strerror}", where=path) from error

    def _unwrapped(self, key: str, envelope: Envelope) -> ContentKey:
        purpose = purpose_of(key, self._holder)
        for number, own in enumerate(self._holders, 1):
            try:
                found = unwrap(envelope, own, purpose)
            except TrustError:
                if number == len(self._holders):
                    raise
                continue
            if found.id != key:
                raise TrustError("it is another key than was signed", where=key)
            return found
        raise TrustError("there is no key here to open it", where=key)
