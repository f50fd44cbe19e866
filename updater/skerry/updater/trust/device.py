"""What an enrolled device trusts: two repositories, and the floor no model goes below."""

from __future__ import annotations

from pathlib import Path

import msgspec

from skerry.devices.clock import Clock
from skerry.devices.digest import Digest
from skerry.devices.errors import InputError, TrustError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.devices.ids import DeviceId, ReleaseId
from skerry.updater.fetch import Fetcher
from skerry.updater.sealing import Parcel
from skerry.updater.trust.assignment import (
    Assignment,
    agreed,
    assigned_path,
    check_counter,
    delta_path,
    patch_of,
)
from skerry.updater.trust.client import RepositoryClient, TrustLimits, make_folder
from skerry.updater.trust.rules import Refusal, Rule

__all__ = ["TrustedClient"]


class TrustedClient:
    """The trust of one device, kept in a folder.

    Args:
        folder: `HOME/trust`; holds `image/`, `director/` and `floors.json`.
        fetcher: the way to the server.
        device: whose assignments are believed.
        server: the server's base address.
        clock: what time it is, for expiry.
        carried: whether `server` is a folder that was carried here, such as a USB stick.
        disk: the seam through which files are written.
        limits: bounds on what is fetched.
    """

    def __init__(
        self,
        folder: Path,
        fetcher: Fetcher,
        *,
        device: DeviceId,
        server: str,
        clock: Clock,
        carried: bool = False,
        disk: Disk | None = None,
        limits: TrustLimits | None = None,
    ) -> None:
        self._folder, self._device = folder, device
        self._limits = limits or TrustLimits()
        self._disk = disk or RealDisk()
        base = server.rstrip("/")

        def repository(name: str, url: str) -> RepositoryClient:
            return RepositoryClient(
                folder / name,
                fetcher,
                url=url,
                clock=clock,
                carried=carried,
                offline_targets=name == "image",
                disk=self._disk,
                limits=self._limits,
            )

        self._image = repository("image", f"{base}/image/")
        self._director = repository("director", f"{base}/director/{device}/")

    def enrol(self, image_root: bytes, director_root: bytes) -> None:
        """Pin the roots that enrolment handed over, once.

        Raises:
            TrustError: roots are pinned here already, or these do not sign themselves.
        """
        if (self._folder / "image" / "root.json").exists():
            raise TrustError(
                "roots are pinned here already",
                where=self._folder,
                remedy="remove the folder to enrol this device anew",
            )
        self._director.pin(director_root)
        self._image.pin(image_root)

    def assignment(self) -> Assignment | None:
        """What this device is to run, by the word of both repositories; None: nothing is assigned.

        The counter may equal that of the release that already runs.

        Raises:
            Refusal: metadata broke a rule, which the error names. Nothing may be installed.
            TrustError: no roots are pinned, or an answer was longer than signed.
            RefusedError, BusyError: the server refused, or cannot be reached now.
        """
        director = _named("director", self._director)
        image = _named("image", self._image)
        path = assigned_path(director.top, self._device)
        if path is None:
            return None
        found = agreed(path, director.top, image.top)
        if found.manifest.size > self._limits.manifest_bytes:
            problem = f"a manifest of {found.manifest.size} bytes"
            raise Refusal(Rule.FORM, "image/targets", problem)
        check_counter(found.release, self._floors().get(str(found.release.model), 0))
        return found

    def delta(self, base: Digest, new: Digest) -> Parcel | None:
        """The patch that turns the blob `base` into `new`, if one is signed.

        To be asked after `assignment`, whose refresh it builds on. A refusal concerns the deltas
        alone: the whole blob can still be fetched.

        Raises:
            Refusal, RefusedError, BusyError: as `assignment` does.
        """
        target = self._image.target(delta_path(base, new))
        return None if target is None else patch_of(target, "image/deltas")

    def committed(self, release: ReleaseId) -> None:
        """Remember that this device committed to `release`: its model never goes below it again."""
        floors = self._floors()
        if floors.get(str(release.model), 0) >= release.counter:
            return
        floors[str(release.model)] = release.counter
        make_folder(self._folder, self._disk)
        data = msgspec.json.encode(floors, order="deterministic")
        write_atomically(self._folder / "floors.json", data, disk=self._disk)

    def _floors(self) -> dict[str, int]:
        path = self._folder / "floors.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(
                "is damaged", where=path, remedy="restore it, or enrol this device anew"
            ) from error


def _named(name: str, repository: RepositoryClient) -> RepositoryClient:
    """Refresh `repository`; a refusal says which of the two it comes from."""
    try:
        repository.refresh()
    except Refusal as error:
        error.where = f"{name}/{error.role}"
        raise
    return repository
