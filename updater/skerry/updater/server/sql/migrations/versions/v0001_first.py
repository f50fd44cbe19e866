"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "seq"),
    )
    op.create_table(
        "claims",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=False),
        sa.Column("used_by", sa.String(length=63), nullable=False),
        sa.Column("key_digest", sa.String(length=71), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "token_hash"),
    )
    op.create_table(
        "deltas",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("base", sa.String(length=71), nullable=False),
        sa.Column("new", sa.String(length=71), nullable=False),
        sa.Column("patch", sa.String(length=71), nullable=False),
        sa.Column("artifact", sa.String(length=128), nullable=False),
        sa.Column("patch_bytes", sa.BigInteger(), nullable=False),
        sa.Column("full_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "base", "new"),
    )
    op.create_table(
        "devices",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("key_digest", sa.String(length=71), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
        sa.Column("enrolled_at", sa.Float(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.Column("active", sa.String(length=128), nullable=False),
        sa.Column("active_manifest", sa.String(length=71), nullable=False),
        sa.Column("artifact", sa.String(length=128), nullable=False),
        sa.Column("busy", sa.Boolean(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("twin_boot", sa.String(length=32), nullable=False),
        sa.Column("twin_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id"),
    )
    op.create_table(
        "events",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        sa.Column("release", sa.String(length=128), nullable=False),
        sa.Column("rollout", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("delta_bytes", sa.BigInteger(), nullable=False),
        sa.Column("full_bytes", sa.BigInteger(), nullable=False),
        sa.Column("applied", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("tenant", "device", "boot", "seq", name="events_once"),
    )
    op.create_index("events_unapplied", "events", ["tenant", "applied", "number"], unique=False)
    op.create_table(
        "operators",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "token_hash"),
    )
    op.create_table(
        "releases",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("release", sa.String(length=128), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "release"),
    )
    op.create_table(
        "rollouts",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("release", sa.String(length=128), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("targets", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("forgiven", sa.Text(), nullable=False),
        sa.Column("reverted_by", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_rollouts_tenant", "rollouts", ["tenant"], unique=False)
    op.create_table(
        "totals",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("artifact", sa.String(length=128), nullable=False),
        sa.Column("windows", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("latency", sa.LargeBinary(), nullable=False),
        sa.Column("last_end", sa.Float(), nullable=False),
        sa.Column("rss_bytes", sa.BigInteger(), nullable=False),
        sa.Column("drift", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "device", "manifest"),
    )
    op.create_table(
        "twins",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("tenant", "device", "boot", "seq", name="twins_once"),
    )
    op.create_table(
        "windows",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.Float(), nullable=False),
        sa.Column("end", sa.Float(), nullable=False),
        sa.Column("received", sa.Float(), nullable=False),
        sa.Column("clock", sa.String(length=16), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("artifact", sa.String(length=128), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("tenant", "device", "boot", "seq", name="windows_once"),
    )
    op.create_index(
        "windows_by_device", "windows", ["tenant", "device", "manifest", "number"], unique=False
    )
    op.create_table(
        "assignments",
        sa.Column(
            "rollout",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("offered_at", sa.Float(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("recalled", sa.Boolean(), nullable=False),
        sa.Column("delta_bytes", sa.BigInteger(), nullable=False),
        sa.Column("full_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"],
            ["rollouts.number"],
        ),
        sa.PrimaryKeyConstraint("rollout", "device"),
    )


def downgrade() -> None:
    op.drop_table("assignments")
    op.drop_table("windows")
    op.drop_table("twins")
    op.drop_table("totals")
    op.drop_table("rollouts")
    op.drop_table("releases")
    op.drop_table("operators")
    op.drop_table("events")
    op.drop_table("devices")
    op.drop_table("deltas")
    op.drop_table("claims")
    op.drop_table("audit")
