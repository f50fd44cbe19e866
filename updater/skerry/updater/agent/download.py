"""Blobs from the server into the store: resumed where they broke off, no faster than allowed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from skerry.devices.clock import Clock
from skerry.devices.errors import CancelledError, DigestMismatch, TrustError, UnavailableError
from skerry.updater.agent.schedule import Hours
from skerry.updater.fetch import BusyError, Fetcher
from skerry.updater.sealing import Parcel
from skerry.updater.store.partial import Partial
from skerry.updater.store.store import Store

__all__ = ["DownloadLimits", "Downloader", "OutsideHoursError"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """How a device may use its line.

    Attributes:
        bytes_per_s: most bytes a second on average; 0 for as fast as it goes.
        hours: when blobs may be fetched; empty for any time.
        blob_bytes: largest blob accepted.
        resumes: how often a broken answer is continued at once, as long as each brings new bytes.
        resume_s: most seconds of pause before continuing.
        look_s: seconds of downloading after which the device looks whether it is still wanted.
    """

    bytes_per_s: int = 0
    hours: Sequence[Hours] = ()
    blob_bytes: int = 1 << 30
    resumes: int = 16
    resume_s: float = 0.5
    look_s: float = 300.0


class OutsideHoursError(UnavailableError):
    """Not now.

    Attributes:
        retry_after: seconds until the hours begin.
    """

    def __init__(self, seconds: float) -> None:
        self.retry_after = seconds
        super().__init__(f"downloads are allowed again in {seconds:.0f} s", where="hours")


class Downloader:
    """Fetches blobs by digest from one server into a store.

    Args:
        server: base URL.
        interrupted: set to break a download off at its next bytes; what is here is kept.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        server: str,
        store: Store,
        *,
        clock: Clock,
        interrupted: Event,
        limits: DownloadLimits | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._fetcher, self._server, self._store = fetcher, server.rstrip("/"), store
        self._clock, self._interrupted = clock, interrupted
        self._limits = limits or DownloadLimits()
        self._chance = chance or random.Random()  # noqa: S311 - spreads load, guards nothing
        self.fetched_bytes = 0
        self._looked = clock.monotonic()

    def looked(self) -> None:
        """The device has just looked at what it is assigned."""
        self._looked = self._clock.monotonic()

    def key(self, key: str) -> None:
        """See that the content key with this id is here.

        Raises:
            TrustError: the server hands out another, or none for this device.
            RefusedError, BusyError: as `Fetcher.open`.
        """
        if self._store.keys is None:
            raise TrustError("this device keeps no keys", where=key, remedy="enrol it anew")
        self._store.keys.fetch(key, self._fetcher, self._server)

    def get(self, parcel: Parcel) -> None:
        """See that a blob is in the store, fetched as `parcel`.

        Raises:
            DigestMismatch, TrustError: the server sent something else; nothing of it is kept.
            RefusedError: the server refused for good.
            BusyError, OutsideHoursError, CancelledError: later; what is here is kept.
            QuotaError, UnavailableError: the disk is full or not writable.
        """
        if self._store.blobs.has(parcel.blob.digest):
            return
        if parcel.blob.size > self._limits.blob_bytes:
            raise TrustError(
                f"a blob of {parcel.blob.size} bytes, at most {self._limits.blob_bytes}",
                where=parcel.blob.digest,
                remedy="raise the limit of this device",
            )
        resumed = self._fetch(parcel)
        try:
            self._store.adopt(resumed)
        except DigestMismatch:
            if not resumed.resumed:
                raise
            self._store.adopt(self._fetch(parcel))

    def _fetch(self, parcel: Parcel) -> Partial:
        """The download of `parcel`, as long as it shall be; its content is not checked yet."""
        partial = self._store.partial(parcel)
        try:
            for left in range(self._limits.resumes, -1, -1):
                before = partial.size
                try:
                    self._continue(partial)
                    return partial
                except BusyError as error:
                    partial.checkpoint()
                    if partial.size == before or not left or error.retry_after:
                        raise
                self._pause(self._limits.resume_s * self._chance.random())
        except TrustError:
            partial.discard()
            raise
        except BaseException:
            partial.close()
            raise
        raise AssertionError("unreachable")

    def _continue(self, partial: Partial) -> None:
        parcel, url = partial.parcel, f"{self._server}/blobs/sha256/{partial.parcel.name}"
        if partial.size == parcel.size:
            return
        self._check_hours()
        with self._fetcher.open(url, max_bytes=parcel.size, start=partial.size) as body:
            if body.start != partial.size:
                partial.restart()
            began, taken = self._clock.monotonic(), 0
            for chunk in body:
                partial.append(chunk)
                taken += len(chunk)
                self.fetched_bytes += len(chunk)
                if self._limits.bytes_per_s:
                    due = began + taken / self._limits.bytes_per_s
                    self._pause(due - self._clock.monotonic())
                self._check_wanted(partial)
                self._check_hours(partial)
        if partial.size < parcel.size:
            raise BusyError(
                f"the answer ended after {partial.size} of {parcel.size} bytes", where=url
            )

    def _check_wanted(self, partial: Partial) -> None:
        """Break off where the device has to look first whether another release is wanted."""
        late = self._clock.monotonic() - self._looked >= self._limits.look_s
        if late or self._interrupted.is_set():
            partial.checkpoint()
            raise CancelledError(
                "the download makes way for a look", where=partial.parcel.blob.digest
            )

    def _check_hours(self, partial: Partial | None = None) -> None:
        seconds = Hours.until_open(self._limits.hours, self._clock.now())
        if seconds:
            if partial is not None:
                partial.checkpoint()
            raise OutsideHoursError(seconds)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._clock.wait(self._interrupted, seconds)
