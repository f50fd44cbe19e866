"""Changing who may sign: pure steps from one signed state to the next.

A change is metadata of the next version that lacks signatures. It collects them, on one machine or
on several, until every threshold is met: a root's by the keys of the root before it and by its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from skerry.devices.errors import InputError, UnavailableError
from skerry.updater.repository.signing import expiry
from skerry.updater.trust import rules

__all__ = [
    "Need",
    "added_key",
    "explained",
    "merged",
    "needs",
    "next_root",
    "replaced_keys",
    "revoked_key",
    "signed_also",
    "threshold",
    "unsigned",
]


@dataclass(frozen=True, slots=True)
class Need:
    """What one role still asks of a piece of metadata.

    Attributes:
        role: `root before`, `root` or `targets`.
        have, threshold: signatures of different keys that are there, and that must be.
        waiting: the ids of the role's keys that have not signed.
    """

    role: str
    have: int
    threshold: int
    waiting: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether enough have signed."""
        return self.have >= self.threshold


def next_root(root: Root, now: float, life: float, edit: Callable[[Root], None]) -> Root:
    """The root after `root`, changed by `edit`, fresh for `life` seconds.

    Raises:
        InputError: the change cannot be made, or would leave a role that nobody can sign.
    """
    new = deepcopy(root)
    try:
        edit(new)
    except ValueError as error:
        raise InputError(f"the keys cannot be changed so: {error}") from error
    for name, role in new.roles.items():
        if len(role.keyids) < role.threshold:
            raise InputError(
                f"{len(role.keyids)} keys would be left where {role.threshold} must sign",
                where=name,
                remedy="add a key or lower the threshold first",
            )
    new.version, new.expires = root.version + 1, expiry(now, life)
    return new


def added_key(role: str, key: Key) -> Callable[[Root], None]:
    """The change that lets `key` sign for `role`."""
    return lambda root: root.add_key(key, role)


def revoked_key(role: str, keyid: str) -> Callable[[Root], None]:
    """The change after which the key `keyid` no longer signs for `role`."""
    return lambda root: root.revoke_key(keyid, role)


def threshold(role: str, count: int) -> Callable[[Root], None]:
    """The change that makes `count` keys of `role` necessary."""

    def edit(root: Root) -> None:
        if count < 1:
            raise ValueError("a threshold is at least 1")
        root.roles[role].threshold = count

    return edit


def replaced_keys(role: str, keys: Iterable[Key]) -> Callable[[Root], None]:
    """The change that leaves `role` to exactly `keys`."""
    wanted = list(keys)

    def edit(root: Root) -> None:
        for key in wanted:
            root.add_key(key, role)
        names = {key.keyid for key in wanted}
        for keyid in [known for known in root.roles[role].keyids if known not in names]:
            root.revoke_key(keyid, role)

    return edit


def explained(old: Root, new: Root) -> list[str]:
    """What a new root changes, one sentence each."""
    said = []
    for name in sorted(new.roles):
        before, after = old.roles[name], new.roles[name]
        new_ids = [keyid for keyid in after.keyids if keyid not in before.keyids]
        gone = [keyid for keyid in before.keyids if keyid not in after.keyids]
        said += [f"the key {keyid[:12]}… may sign {name}" for keyid in new_ids]
        said += [f"the key {keyid[:12]}… may no longer sign {name}" for keyid in gone]
        if before.threshold != after.threshold:
            count, total = after.threshold, len(after.keyids)
            said.append(f"{name} needs {count} of {total} signatures, {before.threshold} before")
    said.append(f"the root is version {new.version} and lasts until {new.expires:%Y-%m-%d}")
    return said


def needs(data: bytes, before: Root | None, root: Root | None) -> tuple[Need, ...]:
    """Which signatures metadata still lacks.

    Args:
        data: a root or the targets.
        before: for a root, the one before it; None for the first.
        root: for targets, the root that names their keys.

    Raises:
        InputError: `data` is neither.
        Refusal: it is not metadata.
    """
    metadata: Metadata[Root] | Metadata[Targets]
    if root is None:
        metadata = rules.parsed(Root, "root", data)
        asked = [("root", metadata.signed)]
        if before is not None:
            asked.insert(0, ("root before", before))
        return tuple(_need(said, "root", delegator, metadata) for said, delegator in asked)
    metadata = rules.parsed(Targets, "targets", data)
    return (_need("targets", "targets", root, metadata),)


def unsigned(signed: Root | Targets) -> bytes:
    """Metadata without any signature."""
    if isinstance(signed, Root):
        return Metadata(signed).to_bytes()
    return Metadata(signed).to_bytes()


def signed_also(data: bytes, signers: Iterable[Signer]) -> bytes:
    """`data` with a further signature by each of `signers`.

    Raises:
        UnavailableError: a signer failed.
    """
    metadata = _any(data)
    for signer in signers:
        try:
            metadata.sign(signer, append=True)
        except UnsignedMetadataError as error:
            raise UnavailableError(
                f"cannot sign: {error}", where=signer.public_key.keyid[:12]
            ) from error
    return metadata.to_bytes()


def merged(here: bytes, other: bytes) -> bytes:
    """`here` with the signatures of `other` as well.

    Raises:
        InputError: they are not copies of the same metadata.
    """
    mine, theirs = _any(here), _any(other)
    if mine.signed_bytes != theirs.signed_bytes:
        raise InputError(
            "the two files are not copies of the same metadata",
            remedy="bring back the copy that was taken from here",
        )
    for keyid, signature in theirs.signatures.items():
        mine.signatures.setdefault(keyid, signature)
    return mine.to_bytes()


def _any(data: bytes) -> Metadata[Root] | Metadata[Targets]:
    try:
        return rules.parsed(Root, "root", data)
    except rules.Refusal:
        return rules.parsed(Targets, "targets", data)


def _need(
    said: str, role: str, delegator: Root, metadata: Metadata[Root] | Metadata[Targets]
) -> Need:
    have, wanted = rules.signed_by(delegator, role, metadata)
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return Need(said, have, wanted, tuple(sorted(result.unsigned)))
