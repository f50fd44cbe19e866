"""The rules of The Update Framework, as functions from values to values.

`Trusted` is what one repository has proved so far; each function here takes it with some unverified
bytes and gives the next one, or raises a `Refusal` that names the rule. No file, socket or clock is
touched: the time is handed in. Signatures, canonical JSON and metadata classes are python-tuf's.

Source: The Update Framework Specification 1.0, section 5 ("Detailed client workflow").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError

from skerry.devices.errors import TrustError

__all__ = [
    "Refusal",
    "Rule",
    "Trusted",
    "check_fresh",
    "check_root_fresh",
    "known_snapshot",
    "known_timestamp",
    "newer_root",
    "newer_snapshot",
    "newer_timestamp",
    "parsed",
    "pinned",
    "proved_targets",
    "require_snapshot",
    "signed_by",
    "timestamp_of",
    "verified",
]

_Kind = TypeVar("_Kind", Root, Timestamp, Snapshot, Targets)


class Rule(StrEnum):
    """What a refused piece of metadata broke."""

    FORM = "form"
    SIGNATURES = "signatures"
    EXPIRED = "expired"
    ROLLBACK = "rollback"
    MIX_AND_MATCH = "mix-and-match"
    LENGTH_OR_HASH = "length-or-hash"
    NOT_LISTED = "not-listed"
    WRONG_DEVICE = "wrong-device"
    DISAGREEMENT = "disagreement"
    COUNTER = "counter"
    CLOCK = "clock"


class Refusal(TrustError):
    """Metadata was refused.

    Attributes:
        rule: which rule it broke.
        role: the role whose metadata it is, such as `timestamp`.
    """

    def __init__(self, rule: Rule, role: str, problem: str, *, remedy: str | None = None) -> None:
        self.rule, self.role = rule, role
        super().__init__(f"refused ({rule}): {problem}", where=role, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Trusted:
    """What one repository has proved so far.

    Attributes:
        root: the newest root.
        timestamp, snapshot: the newest of each that the root's keys signed, or None.
        targets: the proved targets metadata by role name.
    """

    root: Root
    timestamp: Timestamp | None = None
    snapshot: Snapshot | None = None
    targets: Mapping[str, Targets] = field(default_factory=dict)


def pinned(data: bytes) -> Trusted:
    """Start from a root that is trusted because of where it came from; it must sign itself."""
    return Trusted(root=verified(Root, "root", data, None).signed)


def newer_root(trusted: Trusted, data: bytes) -> Trusted:
    """The next root: signed by a threshold of the old root's keys and of its own, version + 1."""
    metadata = verified(Root, "root", data, trusted.root)
    expected = trusted.root.version + 1
    if metadata.signed.version != expected:
        raise Refusal(
            Rule.ROLLBACK, "root", f"version {metadata.signed.version} where {expected} belongs"
        )
    _require_signatures(metadata.signed, "root", metadata)
    return Trusted(root=metadata.signed)


def check_root_fresh(trusted: Trusted, now: float) -> None:
    """The newest root must not have expired."""
    check_fresh("root", trusted.root, now)


def known_timestamp(trusted: Trusted, data: bytes) -> Trusted:
    """Remember a timestamp accepted earlier, for the rollback rules; it may have expired."""
    metadata = verified(Timestamp, "timestamp", data, trusted.root)
    return replace(trusted, timestamp=metadata.signed)


def newer_timestamp(trusted: Trusted, data: bytes, now: float) -> Trusted:
    """The timestamp that the repository offers now; `trusted` itself where it is the known one."""
    metadata = verified(Timestamp, "timestamp", data, trusted.root)
    new, old = metadata.signed, trusted.timestamp
    if old is not None:
        _no_rollback("timestamp", new.version, old.version)
        if new.version == old.version:
            check_fresh("timestamp", old, now)
            return trusted
        _no_rollback("snapshot", new.snapshot_meta.version, old.snapshot_meta.version)
    result = replace(trusted, timestamp=new)
    check_fresh("timestamp", new, now)
    return result


def known_snapshot(trusted: Trusted, data: bytes) -> Trusted:
    """Remember a snapshot that was accepted earlier, for the rollback rules."""
    metadata = verified(Snapshot, "snapshot", data, trusted.root)
    return replace(trusted, snapshot=metadata.signed)


def newer_snapshot(trusted: Trusted, data: bytes) -> Trusted:
    """The snapshot that the timestamp names; nothing known may vanish from it or go back."""
    _match("snapshot", timestamp_of(trusted).snapshot_meta, data)
    metadata = verified(Snapshot, "snapshot", data, trusted.root)
    new = metadata.signed
    if trusted.snapshot is not None:
        for name, known in trusted.snapshot.meta.items():
            if name not in new.meta:
                raise Refusal(
                    Rule.ROLLBACK, "snapshot", f"{name} was listed before and is missing now"
                )
            _no_rollback(name.removesuffix(".json"), new.meta[name].version, known.version)
    return replace(trusted, snapshot=new)


def require_snapshot(trusted: Trusted, now: float) -> Snapshot:
    """The snapshot, which must be fresh and the very one that the timestamp names."""
    snapshot, named = trusted.snapshot, timestamp_of(trusted).snapshot_meta.version
    if snapshot is None or snapshot.version != named:
        found = "none" if snapshot is None else f"version {snapshot.version}"
        raise Refusal(
            Rule.MIX_AND_MATCH, "snapshot", f"the timestamp names version {named}, found {found}"
        )
    check_fresh("snapshot", snapshot, now)
    return snapshot


def proved_targets(
    trusted: Trusted, data: bytes, role: str, delegator: Root | Targets, now: float
) -> Trusted:
    """Targets metadata of `role`, as the snapshot names it and `delegator`'s keys signed it."""
    named = require_snapshot(trusted, now).meta.get(f"{role}.json")
    if named is None:
        raise Refusal(Rule.NOT_LISTED, role, "the snapshot does not list this role")
    _match(role, named, data)
    metadata = verified(Targets, role, data, delegator)
    if metadata.signed.version != named.version:
        raise Refusal(
            Rule.MIX_AND_MATCH,
            role,
            f"version {metadata.signed.version}, while the snapshot names {named.version}",
        )
    check_fresh(role, metadata.signed, now)
    return replace(trusted, targets={**trusted.targets, role: metadata.signed})


def check_fresh(role: str, signed: Signed, now: float) -> None:
    """`signed` must not have expired at `now` (seconds since the epoch)."""
    if signed.is_expired(datetime.fromtimestamp(now, UTC)):
        raise Refusal(
            Rule.EXPIRED,
            role,
            f"version {signed.version} has expired on {signed.expires:%Y-%m-%d %H:%M:%S} UTC",
            remedy="check this machine's clock, and that the repository signs its metadata anew",
        )


def signed_by(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> tuple[int, int]:
    """How many different keys of `role` signed `metadata`, and how many must.

    A key counts once, under however many ids it is listed.
    """
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except (ValueError, SerializationError) as error:
        raise Refusal(Rule.SIGNATURES, role, f"no keys are named for it: {error}") from error
    keys = {
        (key.keytype, key.scheme, str(sorted(key.keyval.items()))) for key in result.signed.values()
    }
    return len(keys), result.threshold


def verified(
    kind: type[_Kind], role: str, data: bytes, delegator: Root | Targets | None
) -> Metadata[_Kind]:
    """`data` as metadata of `role`, signed by a threshold of the keys that `delegator` names.

    Args:
        kind: the class of metadata that it must be.
        role: the role's name.
        data: the file's bytes, whose length has been bounded.
        delegator: the root or targets that delegates to it; None for a root that signs itself.

    Raises:
        Refusal: it is other metadata, or too few of the keys signed it.
    """
    metadata = parsed(kind, role, data)
    signed = metadata.signed
    if delegator is None and isinstance(signed, Root):
        delegator = signed
    if delegator is None:
        raise Refusal(Rule.SIGNATURES, role, "nobody delegates to it")
    _require_signatures(delegator, role, metadata)
    return metadata


def parsed(kind: type[_Kind], role: str, data: bytes) -> Metadata[_Kind]:
    """`data` as metadata of the class `kind`; no signature is checked.

    Raises:
        Refusal: it is no such metadata.
    """
    try:
        metadata = Metadata[_Kind].from_bytes(data)
    except DeserializationError as error:
        cause = error.__cause__ or error
        raise Refusal(Rule.FORM, role, f"is not TUF metadata: {str(cause)[:200]}") from error
    if metadata.signed.type != kind.type:
        raise Refusal(Rule.FORM, role, f"is {metadata.signed.type} metadata, not {kind.type}")
    return metadata


def _require_signatures(delegator: Root | Targets, role: str, metadata: Metadata[_Kind]) -> None:
    count, threshold = signed_by(delegator, role, metadata)
    if count < threshold:
        raise Refusal(
            Rule.SIGNATURES,
            role,
            f"{count} valid signatures by the keys of this role where {threshold} are needed",
            remedy="have it signed by the right keys; a revoked key does not count",
        )


def timestamp_of(trusted: Trusted) -> Timestamp:
    """The timestamp that was proved; nothing else is trusted before it."""
    if trusted.timestamp is None:
        raise Refusal(Rule.MIX_AND_MATCH, "timestamp", "nothing is trusted before the timestamp")
    return trusted.timestamp


def _match(role: str, named: MetaFile, data: bytes) -> None:
    try:
        named.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise Refusal(Rule.LENGTH_OR_HASH, role, f"is not what was signed for: {error}") from error


def _no_rollback(role: str, new: int, old: int) -> None:
    if new < old:
        raise Refusal(
            Rule.ROLLBACK,
            role,
            f"version {new} is offered, and version {old} was seen before",
            remedy="the repository was set back, or somebody replays old metadata",
        )
