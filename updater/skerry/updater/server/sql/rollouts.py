"""Rollouts and their assignments in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from skerry.updater.rollout import Assignment, Policy, Rollout, RolloutState
from skerry.updater.server.records import StoredEvent
from skerry.updater.server.sql import tables as t
from skerry.updater.server.sql.engine import Database
from skerry.updater.server.sql.telemetry import read_event

__all__ = ["SqlRollouts"]

_ASSIGNMENT = Assignment.__struct_fields__


def _number(rollout_id: str) -> int:
    digits = rollout_id[1:]
    fits = rollout_id[:1] == "r" and digits.isascii() and digits.isdigit() and len(digits) < 16
    return int(digits) if fits else 0


def _columns(rollout: Rollout) -> dict[str, object]:
    return {
        "release": rollout.release,
        "policy": msgspec.json.encode(rollout.policy).decode(),
        "state": rollout.state,
        "stage": rollout.stage,
        "targets": msgspec.json.encode(rollout.targets).decode(),
        "reason": rollout.reason,
        "forgiven": msgspec.json.encode(rollout.forgiven).decode(),
        "reverted_by": rollout.reverted_by,
        "created_at": rollout.created_at,
        "started_at": rollout.started_at,
    }


def _read_rollout(row: sa.Row[Any], assignments: Sequence[Assignment]) -> Rollout:
    return Rollout(
        id=f"r{row.number}",
        release=row.release,
        policy=msgspec.json.decode(row.policy, type=Policy),
        state=row.state,
        stage=row.stage,
        targets=msgspec.json.decode(row.targets, type=tuple[str, ...]),
        reason=row.reason,
        forgiven=msgspec.json.decode(row.forgiven, type=tuple[str, ...]),
        reverted_by=row.reverted_by,
        created_at=row.created_at,
        started_at=row.started_at,
        assignments=tuple(assignments),
    )


class SqlRollouts:
    """`Rollouts` in SQL."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    def add(self, release: str, policy: Policy, targets: Sequence[str], now: float) -> Rollout:
        draft = Rollout("", release, policy, targets=tuple(targets), created_at=now)
        insert = t.rollouts.insert().values(tenant=self._tenant, **_columns(draft))
        with self._database.writing() as c:
            number = c.execute(insert.returning(t.rollouts.c.number)).scalar_one()
        return msgspec.structs.replace(draft, id=f"r{number}")

    def get(self, rollout_id: str) -> Rollout | None:
        found = self._select(t.rollouts.c.number == _number(rollout_id))
        return found[0] if found else None

    def all(self) -> list[Rollout]:
        return self._select(sa.true())

    def save(self, rollout: Rollout, *, was: RolloutState) -> bool:
        r = t.rollouts.c
        mine = (r.tenant == self._tenant) & (r.number == _number(rollout.id)) & (r.state == was)
        with self._database.writing() as c:
            change = t.rollouts.update().where(mine).values(**_columns(rollout))
            return c.execute(change).rowcount > 0

    def put(self, rollout_id: str, assignment: Assignment) -> None:
        with self._database.writing() as c:
            self._put(c, rollout_id, assignment)

    def unapplied(self, limit: int) -> list[StoredEvent]:
        e = t.events.c
        query = sa.select(t.events).where(e.tenant == self._tenant, e.applied.is_(False))
        with self._database.reading() as c:
            rows = c.execute(query.order_by(e.number).limit(limit)).all()
        return [read_event(row) for row in rows]

    def apply(
        self, changed: Sequence[tuple[str, Assignment]], events: Sequence[StoredEvent]
    ) -> None:
        numbers = [event.number for event in events]
        with self._database.writing() as c:
            for rollout_id, assignment in changed:
                self._put(c, rollout_id, assignment)
            if numbers:
                seen = t.events.c.number.in_(numbers)
                c.execute(t.events.update().where(seen).values(applied=True))

    def _put(self, c: sa.Connection, rollout_id: str, assignment: Assignment) -> None:
        row = {"rollout": _number(rollout_id), **msgspec.structs.asdict(assignment)}
        c.execute(self._database.upsert(t.assignments, row))

    def _select(self, condition: sa.ColumnElement[bool]) -> list[Rollout]:
        r, a = t.rollouts.c, t.assignments.c
        mine = (r.tenant == self._tenant) & condition
        inside = a.rollout.in_(sa.select(r.number).where(mine))
        with self._database.reading() as c:
            rows = c.execute(sa.select(t.rollouts).where(mine).order_by(r.number)).all()
            of_rollout: dict[int, list[Assignment]] = {row.number: [] for row in rows}
            query = sa.select(t.assignments).where(inside).order_by(a.stage, a.device)
            for row in c.execute(query):
                values = {name: getattr(row, name) for name in _ASSIGNMENT}
                of_rollout[row.rollout].append(Assignment(**values))
        return [_read_rollout(row, of_rollout[row.number]) for row in rows]
