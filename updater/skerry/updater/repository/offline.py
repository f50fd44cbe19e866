"""The operator's side of a repository: a folder with the keys that never go online.

DIR/repository.json    where each private key is: `file:keys/root-1.pem`, `hsm:…`, `awskms:…`
DIR/keys/              key files, mode 0600
DIR/image/             1.root.json, 1.targets.json, …
DIR/director/          1.root.json, …
DIR/blobs/sha256/      the blobs of what was signed here, to be published
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import DelegatedRole, Delegations, Role, Root, Targets

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import write_atomically
from skerry.devices.ids import ModelName, ReleaseId
from skerry.runtime.blobs import FolderBlobs
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.repository.keys import OnlinePublic, Passphrase, load_key, make_key
from skerry.updater.repository.releases import Release, releases_in, target_of
from skerry.updater.repository.signing import expiry, newest, newest_root, sign
from skerry.updater.repository.store import FolderMetadata
from skerry.updater.trust import rules

__all__ = ["Ceremony", "OfflineLimits", "OfflineRepository"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ceremony:
    """How many keys hold a role, and how many must sign.

    Attributes:
        root_keys, root_threshold: of the roots of both repositories.
        targets_keys, targets_threshold: of the releases.
    """

    root_keys: int = 1
    root_threshold: int = 1
    targets_keys: int = 1
    targets_threshold: int = 1

    def __post_init__(self) -> None:
        for role, keys, threshold in (
            ("root", self.root_keys, self.root_threshold),
            ("targets", self.targets_keys, self.targets_threshold),
        ):
            if not 1 <= threshold <= keys:
                problem = f"{threshold} of {keys} keys cannot be asked to sign"
                raise InputError(problem, where=role, remedy="ask for at least 1 and at most all")


@dataclass(frozen=True, slots=True)
class OfflineLimits:
    """How long offline signatures last, in seconds.

    Attributes:
        root_s: life of a root.
        targets_s: life of the list of releases: sign it anew before, or devices refuse it.
    """

    root_s: float = 365 * 86_400.0
    targets_s: float = 365 * 86_400.0


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    signers: dict[str, str]
    schema: int = 1


class OfflineRepository:
    """An operator's repository.

    Args:
        folder: what `create` made.
        clock: what time it is, for expiry.
        passphrase: asked for an encrypted key file.
        limits: how long signatures last.

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
    ) -> None:
        self.folder = folder
        self.image = FolderMetadata(folder / "image")
        self.director = FolderMetadata(folder / "director")
        self.blobs = FolderBlobs(folder)
        self._clock, self._passphrase = clock, passphrase
        self._limits = limits or OfflineLimits()
        self._config = _read_config(folder)

    @classmethod
    def create(
        cls,
        folder: Path,
        online: OnlinePublic,
        clock: Clock,
        *,
        ceremony: Ceremony | None = None,
        passphrase: str | None = None,
        limits: OfflineLimits | None = None,
    ) -> OfflineRepository:
        """Make keys, and sign the first root of both repositories and an empty list of releases.

        Args:
            folder: where; must not hold a repository yet.
            online: the public keys of the server that will serve it.
            clock: what time it is.
            ceremony: how many keys, and how many of them must sign.
            passphrase: encrypts the key files; None leaves them plain, mode 0600.
            limits: how long the signatures last.

        Raises:
            InputError: there is a repository already.
        """
        if (folder / "repository.json").exists():
            raise InputError(
                "a repository is here already", where=folder, remedy="choose another folder"
            )
        limits, ceremony, now = limits or OfflineLimits(), ceremony or Ceremony(), clock.now()
        keys: dict[str, list[Signer]] = {}
        signers: dict[str, str] = {}
        for role, count in (("root", ceremony.root_keys), ("targets", ceremony.targets_keys)):
            keys[role] = []
            for number in range(1, count + 1):
                name = f"keys/{role}-{number}.pem"
                signer = make_key(folder / name, passphrase)
                keys[role].append(signer)
                signers[signer.public_key.keyid] = f"file:{name}"
        root = [signer.public_key for signer in keys["root"]]
        held = {
            "root": (root, ceremony.root_threshold),
            "targets": (
                [signer.public_key for signer in keys["targets"]],
                ceremony.targets_threshold,
            ),
        }
        image = _root({**held, **_one_each(online.image, ("snapshot", "timestamp"))}, now, limits)
        director = _root({**held, **_one_each(online.director)}, now, limits)
        releases = Targets(
            expires=expiry(now, limits.targets_s),
            delegations=_delegations(online.image["deltas"]),
        )
        FolderMetadata(folder / "director").write({"1.root.json": sign(director, keys["root"])})
        FolderMetadata(folder / "image").write(
            {
                "1.root.json": sign(image, keys["root"]),
                "1.targets.json": sign(releases, keys["targets"]),
            }
        )
        _write_config(folder, _Config(signers))
        return cls(folder, clock, limits=limits)

    def add_release(self, path: Path, *, version: str | None = None) -> Release:
        """Sign the bundle in the folder `path` as the next release of its model.

        Every blob is hashed and copied beside the metadata. A bundle that is the newest release of
        its model already is not signed twice.

        Args:
            path: an OCI layout.
            version: what people call it; the bundle's own version by default.

        Raises:
            BundleError, DigestMismatch: the bundle is damaged.
            InputError: too few of the signing keys are here.
        """
        bundle = Bundle.open(path)
        bundle.verify()
        targets = self.targets()
        model = ModelName(bundle.card.model)
        counters = {r.id.counter: r for r in releases_in(targets) if r.id.model == model}
        last = max(counters, default=0)
        if last and counters[last].manifest == bundle.manifest:
            return counters[last]
        release = Release(
            ReleaseId(model, last + 1), version or bundle.card.version, bundle.manifest
        )
        self._copy(bundle)
        target = target_of(release)
        targets.targets[target.path] = target
        self.sign_targets(targets)
        return release

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

        Raises:
            InputError: a key file is damaged or its passphrase wrong.
            UnavailableError: a token or key service does not answer.
        """
        found = []
        for keyid in keyids:
            place = self._config.signers.get(keyid)
            if place is not None:
                found.append(self._open(place, keys[keyid]))
        return found

    def _open(self, place: str, key: Key) -> Signer:
        scheme, _, name = place.partition(":")
        if scheme == "file":
            signer = load_key(self.folder / name, self._passphrase)
            if signer.public_key.keyid != key.keyid:
                raise InputError("is another key than expected", where=self.folder / name)
            return signer
        try:
            return Signer.from_priv_key_uri(place, key, self._secret)
        except (SecureSystemsError, ValueError, OSError) as error:
            raise UnavailableError(
                f"cannot reach the key: {error}", where=place, remedy="connect it and try again"
            ) from error

    def _secret(self, name: str) -> str:
        if self._passphrase is None:
            raise InputError(f"the key needs its {name}", remedy="use --passphrase-file")
        return self._passphrase(Path(name))

    def sign_targets(self, targets: Targets) -> None:
        """Sign `targets` as the next version.

        Raises:
            InputError: too few of the signing keys are here.
        """
        root = newest_root(self.image)
        role = root.roles["targets"]
        signers = self.signers(role.keyids, root.keys)
        if len(signers) < role.threshold:
            raise InputError(
                f"{len(signers)} signing keys are here, and {role.threshold} must sign",
                where=self.folder / "repository.json",
                remedy="bring the other keys here",
            )
        targets.version += 1
        targets.expires = expiry(self._clock.now(), self._limits.targets_s)
        self.image.write({f"{targets.version}.targets.json": sign(targets, signers)})

    def _copy(self, bundle: Bundle) -> None:
        for blob in (bundle.manifest, *bundle.descriptors()):
            with bundle.blobs.path(blob.digest).open("rb") as file:
                self.blobs.put(blob, _chunks(file))


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


def _one_each(
    keys: Mapping[str, Key], roles: Iterable[str] | None = None
) -> dict[str, tuple[list[Key], int]]:
    return {role: ([keys[role]], 1) for role in (roles or keys)}


def _root(held: Mapping[str, tuple[list[Key], int]], now: float, limits: OfflineLimits) -> Root:
    root = Root(
        expires=expiry(now, limits.root_s),
        roles={role: Role([], threshold) for role, (_, threshold) in held.items()},
        consistent_snapshot=True,
    )
    for role, (keys, _) in held.items():
        for key in keys:
            root.add_key(key, role)
    return root


def _delegations(deltas: Key) -> Delegations:
    """Patches, and nothing else, may be named by the server's key."""
    role = DelegatedRole("deltas", [deltas.keyid], 1, True, ["deltas/*/*"])
    return Delegations({deltas.keyid: deltas}, {"deltas": role})


def _read_config(folder: Path) -> _Config:
    path = folder / "repository.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Config)
    except FileNotFoundError as error:
        raise InputError(
            "is not a release repository", where=folder, remedy="make one with `skerry keys init`"
        ) from error
    except msgspec.DecodeError as error:
        raise InputError(f"is damaged: {error}", where=path) from error


def _write_config(folder: Path, config: _Config) -> None:
    data = msgspec.json.format(msgspec.json.encode(config, order="sorted"))
    write_atomically(folder / "repository.json", data + b"\n", mode=0o600)
