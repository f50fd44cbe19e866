"""A hash chain over what was done: entry n names the digest of entry n-1."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from skerry.devices.errors import TrustError
from skerry.updater.server.records import AuditEntry

__all__ = ["GENESIS", "chained", "verify_chain"]

GENESIS = "0" * 64
"""What the first entry names as the one before."""


def chained(
    previous: AuditEntry | None, actor: str, action: str, subject: str, details: str, at: float
) -> AuditEntry:
    """The entry that follows `previous`."""
    seq = previous.seq + 1 if previous else 1
    before = previous.digest if previous else GENESIS
    digest = _digest(seq, at, actor, action, subject, details, before)
    return AuditEntry(seq, at, actor, action, subject, details, before, digest)


def verify_chain(entries: Iterable[AuditEntry], *, start: AuditEntry | None = None) -> int:
    """How many entries follow `start` (the beginning, if None) unbroken.

    Raises:
        TrustError: an entry was changed, removed or put in.
    """
    last, count = start, 0
    for entry in entries:
        expected = chained(last, entry.actor, entry.action, entry.subject, entry.details, entry.at)
        if entry != expected:
            raise TrustError(
                "the chain is broken here: this entry or the one before it is not what was written",
                where=f"audit entry {entry.seq}",
                remedy="compare with a backup of the database",
            )
        last, count = entry, count + 1
    return count


def _digest(*fields: object) -> str:
    return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()
