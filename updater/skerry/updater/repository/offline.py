"""The operator's side of a repository: a folder with the keys that never go online.

DIR/repository.json    where each private key is: `file:keys/root-1.pem`, `hsm:…`, `awskms:…`
DIR/keys/              key files, mode 0600
DIR/image/             1.root.json, 1.targets.json, …
DIR/director/          1.root.json, …
DIR/blobs/sha256/      the blobs of what was signed here, to be published
DIR/content/           content keys of sealed releases, mode 0600
DIR/lock               held by whoever changes any of it: `locking.changing`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Targets

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError
from skerry.devices.ids import ModelName, ReleaseId
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.repository.content import ContentKeys
from skerry.updater.repository.founding import (
    Holders,
    OfflineLimits,
    Places,
    found,
    read_places,
    write_places,
)
from skerry.updater.repository.keys import OnlinePublic
from skerry.updater.repository.locking import changing
from skerry.updater.repository.releases import Release, last_counter, releases_in, target_of
from skerry.updater.repository.signers import Passphrase, is_gone, open_signer
from skerry.updater.repository.signing import expiry, newest, newest_root, sign
from skerry.updater.repository.store import FolderMetadata
from skerry.updater.sealing import SealedBlobs, parcels
from skerry.updater.trust import rules

__all__ = ["OfflineRepository"]

_CHUNK_BYTES = 1 << 20


class OfflineRepository:
    """An operator's repository.

    Args:
        folder: what `create` made.
        clock: what time it is, for expiry.
        passphrase: asked for an encrypted key file.
        limits: how long signatures last.
        tell: told, once each, of the key files that are not here.

    Raises:
        InputError: `folder` is no such repository.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        passphrase: Passphrase | None = None,
        limits: OfflineLimits | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self.image = FolderMetadata(folder / "image")
        self.director = FolderMetadata(folder / "director")
        self.content = ContentKeys(folder / "content")
        self.blobs = SealedBlobs(folder, self.content)
        self._clock, self._passphrase = clock, passphrase
        self.limits = limits or OfflineLimits()
        self._places = read_places(folder)
        self._tell, self._told = tell or (lambda _: None), set[str]()

    @classmethod
    def create(
        cls,
        folder: Path,
        online: OnlinePublic,
        clock: Clock,
        *,
        holders: Holders | None = None,
        passphrase: str | None = None,
        limits: OfflineLimits | None = None,
    ) -> OfflineRepository:
        """Make keys, and sign the first root of both repositories and an empty list of releases.

        Args:
            folder: where; must not hold a repository yet.
            online: the public keys of the server that will serve it.
            clock: what time it is.
            holders: how many keys, and how many of them must sign.
            passphrase: encrypts the key files; None leaves them plain, mode 0600.
            limits: how long the signatures last.

        Raises:
            InputError: there is a repository already.
        """
        limits = limits or OfflineLimits()
        found(
            folder,
            online,
            clock.now(),
            holders=holders or Holders(),
            passphrase=passphrase,
            limits=limits,
        )
        return cls(folder, clock, limits=limits)

    def add_release(
        self, path: Path, *, version: str | None = None, sealed: bool = False
    ) -> Release:
        """Sign the bundle in the folder `path`, with the keys here, as its model's next release.

        Waits for whoever changes the repository meanwhile.

        Raises:
            BundleError, DigestMismatch: the bundle is damaged.
            InputError: too few of the signing keys are here.
        """
        with changing(self.folder):
            release, targets = self.new_release(path, version=version, sealed=sealed)
            if targets is not None:
                self.sign_targets(targets)
        return release

    def new_release(
        self, path: Path, *, version: str | None = None, sealed: bool = False
    ) -> tuple[Release, Targets | None]:
        """The next release of a bundle's model, and the list of releases that is yet to be signed.

        Every blob is hashed and copied beside the metadata. A bundle that is the newest release of
        its model already is not released twice.

        Args:
            path: an OCI layout.
            version: what people call it; the bundle's own version by default.
            sealed: seal its blobs under a fresh content key; only the fleet's devices open them.

        Returns:
            the release, and the next version of the targets; None where nothing is new.

        Raises:
            BundleError, DigestMismatch: the bundle is damaged.
        """
        bundle = Bundle.open(path)
        bundle.verify()
        targets = self.targets()
        model = ModelName(bundle.card.model)
        last = last_counter(targets, model)
        for known in releases_in(targets):
            same = known.manifest == bundle.manifest and bool(known.key) == sealed
            if same and known.id == _numbered(model, last):
                return known, None
        release = Release(
            ReleaseId(model, last + 1),
            version or bundle.card.version,
            bundle.manifest,
            self.content.make() if sealed else "",
        )
        self._copy(bundle, release.key)
        target = target_of(release)
        targets.targets[target.path] = target
        return release, self._next(targets)

    def targets(self) -> Targets:
        """The newest signed list of releases."""
        _, data = newest(self.image, "targets")
        if data is None:
            raise InputError("no targets are here", where=self.folder / "image")
        return rules.verified(Targets, "targets", data, newest_root(self.image)).signed

    def releases(self) -> list[Release]:
        """Every release signed here, by model and counter."""
        return releases_in(self.targets())

    def files(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What a server is given: image's roots and newest targets, and director's roots."""
        version, targets = newest(self.image, "targets")
        image = _roots(self.image)
        if targets is not None:
            image[f"{version}.targets.json"] = targets
        return image, _roots(self.director)

    def signers(self, keyids: Iterable[str], keys: Mapping[str, Key]) -> list[Signer]:
        """Those of the keys `keyids` that can sign here.

        A key file that is gone, lost or handed out, is left out: thresholds judge what is left.

        Raises:
            InputError: a key file cannot be read or is damaged, or its passphrase is wrong.
            UnavailableError: a token or key service does not answer.
        """
        found = []
        for keyid in keyids:
            place = self._places.signers.get(keyid)
            if place is None:
                continue
            if is_gone(place, self.folder):
                self._note(f"{place.removeprefix('file:')} is not here; it does not sign")
            else:
                found.append(open_signer(place, keys[keyid], self.folder, self._passphrase))
        return found

    def _note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    def sign_targets(self, targets: Targets) -> None:
        """Sign `targets`, the next version, with the keys that are here.

        Raises:
            InputError: too few of them are.
        """
        root = newest_root(self.image)
        role = root.roles["targets"]
        signers = self.signers(role.keyids, root.keys)
        if len(signers) < role.threshold:
            raise InputError(
                f"{len(signers)} signing keys are here, and {role.threshold} must sign",
                where=self.folder / "repository.json",
                remedy="collect their signatures: `skerry release sign`, `skerry keys status`",
            )
        self.image.write({f"{targets.version}.targets.json": sign(targets, signers)})

    def next_targets(self) -> Targets:
        """The list of releases as its next version, fresh and not yet signed."""
        return self._next(self.targets())

    def _next(self, targets: Targets) -> Targets:
        targets.version += 1
        targets.expires = expiry(self._clock.now(), self.limits.targets_s)
        return targets

    def key_here(self, keyid: str, place: str) -> None:
        """Remember where a private key is: `file:…` below the folder, or a signer's URI."""
        self._places = Places({**self._places.signers, keyid: place})
        write_places(self.folder, self._places)

    def _copy(self, bundle: Bundle, key: str) -> None:
        for parcel in parcels(bundle, key):
            with bundle.blobs.open(parcel.blob.digest) as file:
                self.blobs.put_as(parcel, _chunks(file))


def _numbered(model: ModelName, counter: int) -> ReleaseId | None:
    return ReleaseId(model, counter) if counter else None


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _roots(store: FolderMetadata) -> dict[str, bytes]:
    found = {}
    for name in store.names():
        data = store.read(name)
        if name.endswith(".root.json") and data is not None:
            found[name] = data
    return found
