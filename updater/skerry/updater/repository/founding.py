"""The first state of a release repository: keys, the first roots, and an empty list of releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import DelegatedRole, Delegations, Role, Root, Targets

from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically
from skerry.updater.repository.content import with_wrap_key
from skerry.updater.repository.keys import OnlinePublic
from skerry.updater.repository.signers import make_key
from skerry.updater.repository.signing import expiry, sign
from skerry.updater.repository.store import FolderMetadata

__all__ = [
    "Holders",
    "OfflineLimits",
    "Places",
    "delegations_to",
    "found",
    "read_places",
    "write_places",
]


@dataclass(frozen=True, slots=True)
class Holders:
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


class Places(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`repository.json`: where the private keys are.

    Attributes:
        signers: key id to `file:keys/root-1.pem`, or to the URI of a token or key service.
        schema: the version of this form.
    """

    signers: dict[str, str]
    schema: int = 1


def found(
    folder: Path,
    online: OnlinePublic,
    now: float,
    *,
    holders: Holders,
    passphrase: str | None,
    limits: OfflineLimits,
) -> None:
    """Make keys in `folder`, and sign the first roots and an empty list of releases.

    Args:
        folder: where; must not hold a repository yet.
        online: the public keys of the server that will serve it.
        now: the time, in seconds since the epoch.
        holders: how many keys, and how many of them must sign.
        passphrase: encrypts the key files; None leaves them plain, mode 0600.
        limits: how long the signatures last.

    Raises:
        InputError: there is a repository already.
    """
    if (folder / "repository.json").exists():
        raise InputError(
            "a repository is here already", where=folder, remedy="choose another folder"
        )
    keys: dict[str, list[Signer]] = {}
    signers: dict[str, str] = {}
    for role, count in (("root", holders.root_keys), ("targets", holders.targets_keys)):
        keys[role] = []
        for number in range(1, count + 1):
            name = f"keys/{role}-{number}.pem"
            signer = make_key(folder / name, passphrase)
            keys[role].append(signer)
            signers[signer.public_key.keyid] = f"file:{name}"
    root = [signer.public_key for signer in keys["root"]]
    held = {
        "root": (root, holders.root_threshold),
        "targets": (
            [signer.public_key for signer in keys["targets"]],
            holders.targets_threshold,
        ),
    }
    image = _root({**held, **_one_each(online.image, ("snapshot", "timestamp"))}, now, limits)
    with_wrap_key(image, online.wrap)
    director = _root({**held, **_one_each(online.director)}, now, limits)
    releases = Targets(
        expires=expiry(now, limits.targets_s),
        delegations=delegations_to(online.image["deltas"]),
    )
    FolderMetadata(folder / "director").write({"1.root.json": sign(director, keys["root"])})
    FolderMetadata(folder / "image").write(
        {
            "1.root.json": sign(image, keys["root"]),
            "1.targets.json": sign(releases, keys["targets"]),
        }
    )
    write_places(folder, Places(signers))


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


def delegations_to(deltas: Key) -> Delegations:
    """The delegation by which a server's key may name patches, and nothing else."""
    role = DelegatedRole("deltas", [deltas.keyid], 1, True, ["deltas/*/*"])
    return Delegations({deltas.keyid: deltas}, {"deltas": role})


def read_places(folder: Path) -> Places:
    """The `repository.json` of `folder`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / "repository.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Places)
    except FileNotFoundError as error:
        raise InputError(
            "is not a release repository", where=folder, remedy="make one with `skerry keys init`"
        ) from error
    except msgspec.DecodeError as error:
        raise InputError(f"is damaged: {error}", where=path) from error


def write_places(folder: Path, places: Places) -> None:
    """Keep `places` as the `repository.json` of `folder`, mode 0600."""
    data = msgspec.json.format(msgspec.json.encode(places, order="sorted"))
    write_atomically(folder / "repository.json", data + b"\n", mode=0o600)
