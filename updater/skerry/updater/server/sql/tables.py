"""The tables. Names of columns are names of fields in `records`; every row belongs to a tenant."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import BigInteger

__all__ = [
    "METADATA",
    "assignments",
    "audit",
    "claims",
    "deltas",
    "devices",
    "events",
    "operators",
    "releases",
    "rollouts",
    "totals",
    "twins",
    "windows",
]

METADATA = MetaData()
_NAME, _DIGEST, _RELEASE = String(63), String(71), String(128)
# SQLite gives rowids only to INTEGER.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")


def _tenant() -> Column[str]:
    return Column("tenant", _NAME, primary_key=True)


def _time(name: str) -> Column[float]:
    return Column(name, Float, nullable=False)


def _key() -> list[Column[object]]:
    """What makes a message of a device the same message."""
    return [
        Column("tenant", _NAME, nullable=False),
        Column("device", _NAME, nullable=False),
        Column("boot", String(32), nullable=False),
        Column("seq", BigInteger, nullable=False),
    ]


devices = Table(
    "devices",
    METADATA,
    _tenant(),
    Column("id", _NAME, primary_key=True),
    Column("key_digest", _DIGEST, nullable=False),
    Column("certificate", Text, nullable=False),
    _time("not_after"),
    _time("enrolled_at"),
    Column("profile", Text, nullable=False),
    _time("revoked_at"),
    Column("online", Boolean, nullable=False),
    Column("boot", String(32), nullable=False),
    _time("last_seen"),
    Column("active", _RELEASE, nullable=False),
    Column("active_manifest", _DIGEST, nullable=False),
    Column("artifact", _RELEASE, nullable=False),
    Column("busy", Boolean, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("twin_boot", String(32), nullable=False),
    Column("twin_seq", BigInteger, nullable=False),
)

claims = Table(
    "claims",
    METADATA,
    _tenant(),
    Column("token_hash", String(64), primary_key=True),
    _time("created_at"),
    _time("expires_at"),
    Column("device", _NAME, nullable=False),
    _time("used_at"),
    Column("used_by", _NAME, nullable=False),
    Column("key_digest", _DIGEST, nullable=False),
)

operators = Table(
    "operators",
    METADATA,
    _tenant(),
    Column("token_hash", String(64), primary_key=True),
    Column("name", _NAME, nullable=False),
    _time("created_at"),
    Column("role", String(16), nullable=False),
    _time("revoked_at"),
)

releases = Table(
    "releases",
    METADATA,
    _tenant(),
    Column("release", _RELEASE, primary_key=True),
    Column("version", _RELEASE, nullable=False),
    Column("manifest", _DIGEST, nullable=False),
    Column("size", BigInteger, nullable=False),
    _time("published_at"),
)

deltas = Table(
    "deltas",
    METADATA,
    _tenant(),
    Column("base", _DIGEST, primary_key=True),
    Column("new", _DIGEST, primary_key=True),
    Column("patch", _DIGEST, nullable=False),
    Column("artifact", _RELEASE, nullable=False),
    Column("patch_bytes", BigInteger, nullable=False),
    Column("full_bytes", BigInteger, nullable=False),
)

rollouts = Table(
    "rollouts",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("tenant", _NAME, nullable=False, index=True),
    Column("release", _RELEASE, nullable=False),
    Column("policy", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("targets", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("forgiven", Text, nullable=False),
    Column("reverted_by", String(32), nullable=False),
    _time("created_at"),
    _time("started_at"),
)

assignments = Table(
    "assignments",
    METADATA,
    Column("rollout", _NUMBER, primary_key=True, autoincrement=False),
    Column("device", _NAME, primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    _time("offered_at"),
    _time("since"),
    Column("reason", Text, nullable=False),
    Column("recalled", Boolean, nullable=False),
    Column("delta_bytes", BigInteger, nullable=False),
    Column("full_bytes", BigInteger, nullable=False),
    ForeignKeyConstraint(["rollout"], ["rollouts.number"]),
)

events = Table(
    "events",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    *_key(),
    Column("kind", String(32), nullable=False),
    _time("at"),
    _time("received"),
    Column("release", _RELEASE, nullable=False),
    Column("rollout", _RELEASE, nullable=False),
    Column("reason", Text, nullable=False),
    Column("delta_bytes", BigInteger, nullable=False),
    Column("full_bytes", BigInteger, nullable=False),
    Column("applied", Boolean, nullable=False),
    UniqueConstraint("tenant", "device", "boot", "seq", name="events_once"),
    Index("events_unapplied", "tenant", "applied", "number"),
)

windows = Table(
    "windows",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    *_key(),
    _time("start"),
    _time("end"),
    _time("received"),
    Column("clock", String(16), nullable=False),
    Column("manifest", _DIGEST, nullable=False),
    Column("artifact", _RELEASE, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("tenant", "device", "boot", "seq", name="windows_once"),
    Index("windows_by_device", "tenant", "device", "manifest", "number"),
)

twins = Table(
    "twins",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    *_key(),
    _time("at"),
    _time("received"),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("tenant", "device", "boot", "seq", name="twins_once"),
)

totals = Table(
    "totals",
    METADATA,
    _tenant(),
    Column("device", _NAME, primary_key=True),
    Column("manifest", _DIGEST, primary_key=True),
    Column("artifact", _RELEASE, nullable=False),
    Column("windows", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("latency", LargeBinary, nullable=False),
    _time("last_end"),
    Column("rss_bytes", BigInteger, nullable=False),
    Column("drift", String(16), nullable=False),
)

audit = Table(
    "audit",
    METADATA,
    _tenant(),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    _time("at"),
    Column("actor", _RELEASE, nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
)
