"""The parts of the fleet store together, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa

from skerry.devices.errors import UnavailableError
from skerry.updater.server.audit import chained
from skerry.updater.server.records import AuditEntry
from skerry.updater.server.sql import tables as t
from skerry.updater.server.sql.engine import Database, open_database
from skerry.updater.server.sql.registry import SqlAccess, SqlRegistry
from skerry.updater.server.sql.rollouts import SqlRollouts
from skerry.updater.server.sql.telemetry import SqlTelemetry

__all__ = ["SqlAudit", "SqlFleet", "open_fleet"]

_TRIES = 50


class SqlAudit:
    """`AuditLog` in SQL."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    def append(self, actor: str, action: str, subject: str, details: str, at: float) -> AuditEntry:
        for _ in range(_TRIES):
            try:
                with self._database.writing() as c:
                    last = self._select(c, t.audit.c.seq.desc(), t.audit.c.seq > 0, 1)
                    before = last[0] if last else None
                    entry = chained(before, actor, action, subject, details, at)
                    values = {name: getattr(entry, name) for name in entry.__struct_fields__}
                    c.execute(t.audit.insert().values(tenant=self._tenant, **values))
                    return entry
            except sa.exc.IntegrityError:
                continue  # another server was quicker: follow its entry
        raise UnavailableError("too many writers", where="audit log")

    def entries(self, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        with self._database.reading() as c:
            return self._select(c, t.audit.c.seq.asc(), t.audit.c.seq > after, limit)

    def _select(
        self,
        c: sa.Connection,
        order: sa.ColumnElement[int],
        condition: sa.ColumnElement[bool],
        limit: int,
    ) -> list[AuditEntry]:
        query = sa.select(t.audit).where(t.audit.c.tenant == self._tenant, condition)
        names = AuditEntry.__struct_fields__
        return [
            AuditEntry(**{name: getattr(row, name) for name in names})
            for row in c.execute(query.order_by(order).limit(limit))
        ]


class SqlFleet:
    """`FleetStore` in SQL.

    Args:
        database: with the schema of this version.
        tenant: whose rows these are.
    """

    def __init__(self, database: Database, tenant: str) -> None:
        self._database = database
        self.registry = SqlRegistry(database, tenant)
        self.access = SqlAccess(database, tenant)
        self.rollouts = SqlRollouts(database, tenant)
        self.telemetry = SqlTelemetry(database, tenant)
        self.audit = SqlAudit(database, tenant)

    def close(self) -> None:
        """Close every connection."""
        self._database.engine.dispose()


def open_fleet(url: str, tenant: str) -> SqlFleet:
    """The store at `url`, brought up to this version's schema; errors as `open_database`."""
    return SqlFleet(open_database(url), tenant)
