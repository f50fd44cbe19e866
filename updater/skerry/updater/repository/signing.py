"""How metadata is signed, and how the newest of a role is found in a store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from skerry.devices.errors import InputError, TrustError, UnavailableError
from skerry.updater.repository.store import MetadataStore
from skerry.updater.trust import rules
from skerry.updater.trust.rules import Refusal, Rule

__all__ = [
    "accept_roots",
    "expiry",
    "meta_of",
    "newest",
    "newest_root",
    "prune",
    "require_key",
    "sign",
    "stale",
    "versions",
]

_Kind = TypeVar("_Kind", Root, Snapshot, Targets, Timestamp)
_VERSIONED = re.compile(r"([1-9][0-9]{0,8})\.([a-z]+)\.json")


def expiry(now: float, seconds: float) -> datetime:
    """The moment `seconds` after `now`, as metadata writes it."""
    return datetime.fromtimestamp(int(now + seconds), UTC)


def stale(signed: Signed, now: float, life: float) -> bool:
    """Whether less than half of `life` (seconds) is left, so that it is time to sign anew."""
    return signed.expires.timestamp() - now < life / 2


def sign(signed: _Kind, signers: Iterable[Signer]) -> bytes:
    """The metadata file of `signed`, with a signature by each of `signers`.

    Raises:
        UnavailableError: a signer failed: a token is not there, a service does not answer.
    """
    metadata: Metadata[_Kind] = Metadata(signed)
    for signer in signers:
        try:
            metadata.sign(signer, append=True)
        except UnsignedMetadataError as error:
            raise UnavailableError(
                f"cannot sign {signed.type}: {error}", where=signer.public_key.keyid[:12]
            ) from error
    return metadata.to_bytes()


def meta_of(version: int, data: bytes) -> MetaFile:
    """How a snapshot or timestamp names a file: version, length and SHA-256."""
    return MetaFile.from_data(version, data, ["sha256"])


def versions(store: MetadataStore, role: str, folder: str = "") -> list[int]:
    """The versions of `role` that are stored, ascending."""
    found = []
    for name in store.names(folder):
        match = _VERSIONED.fullmatch(name.rpartition("/")[2])
        if match and match[2] == role:
            found.append(int(match[1]))
    return sorted(found)


def newest(store: MetadataStore, role: str, folder: str = "") -> tuple[int, bytes | None]:
    """The highest stored version of `role` and its bytes; (0, None) if there is none."""
    prefix = f"{folder}/" if folder else ""
    for version in reversed(versions(store, role, folder)):
        return version, store.read(f"{prefix}{version}.{role}.json")
    return 0, None


def newest_root(store: MetadataStore) -> Root:
    """The newest root of the repository in `store`.

    Raises:
        TrustError: nothing was published yet.
    """
    _, data = newest(store, "root")
    if data is None:
        raise TrustError(
            "no root is published yet",
            where="root",
            remedy="make one with `skerry keys init`, and publish it with `skerry release publish`",
        )
    return rules.verified(Root, "root", data, None).signed


def require_key(delegator: Root | Targets, role: str, keyid: str) -> None:
    """`delegator` must name the key with which this server signs `role`."""
    try:
        keyids = delegator.get_delegated_role(role).keyids
    except ValueError:
        keyids = []
    if keyid not in keyids:
        raise InputError(
            f"the {delegator.type} metadata does not name this server's key {keyid[:12]}…",
            where=role,
            remedy="sign it with this server's keys/online.json (`skerry keys init --online`)",
        )


def accept_roots(
    store: MetadataStore, uploaded: Mapping[str, bytes], now: float
) -> tuple[Root, dict[str, bytes]]:
    """The newest root after `uploaded`, and those of its files that are new, all verified.

    The first root ever is taken as it is, if it signs itself: who may bring it is the caller's to
    check. Each further one must be signed by the one before it.

    Raises:
        Refusal: a root does not follow, has expired, or differs from the one published before.
    """
    offered = {}
    for name, data in uploaded.items():
        match = _VERSIONED.fullmatch(name)
        if match and match[2] == "root":
            offered[int(match[1])] = data
    _, known = newest(store, "root")
    trusted = None if known is None else rules.pinned(known)
    fresh: dict[str, bytes] = {}
    for version in sorted(offered):
        name, data = f"{version}.root.json", offered[version]
        if trusted is not None and version <= trusted.root.version:
            if store.read(name) not in (None, data):
                problem = f"version {version} is published already, with other content"
                raise Refusal(Rule.ROLLBACK, "root", problem)
            continue
        trusted = rules.pinned(data) if trusted is None else rules.newer_root(trusted, data)
        if trusted.root.version != version:
            raise Refusal(Rule.FORM, "root", f"{name} holds version {trusted.root.version}")
        fresh[name] = data
    if trusted is None:
        return newest_root(store), {}
    rules.check_root_fresh(trusted, now)
    return trusted.root, fresh


def prune(store: MetadataStore, roles: Iterable[str], keep: int, folder: str = "") -> None:
    """Forget all but the newest `keep` versions of each role, which devices may be reading."""
    prefix = f"{folder}/" if folder else ""
    for role in roles:
        old = versions(store, role, folder)[:-keep]
        store.remove(f"{prefix}{version}.{role}.json" for version in old)
