"""Windows, events and twins in SQL: each stored once, and added up as it comes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from skerry.telemetry.collector import Record
from skerry.telemetry.histogram import Histogram
from skerry.telemetry.messages import Event, TwinReported
from skerry.telemetry.window import Window
from skerry.updater.server.records import StoredEvent, Totals
from skerry.updater.server.sql import tables as t
from skerry.updater.server.sql.engine import Database
from skerry.updater.server.sums import added

__all__ = ["SqlTelemetry", "read_event"]

_LOG = logging.getLogger(__name__)
_SLIM_BATCH = 200  # windows in one transaction: others can write between two
_EVENT = StoredEvent.__struct_fields__
_TOTALS = Totals.__struct_fields__


def read_event(row: sa.Row[Any]) -> StoredEvent:
    """An event as it was stored."""
    return StoredEvent(**{name: getattr(row, name) for name in _EVENT})


class SqlTelemetry:
    """`Telemetry` in SQL."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    def store(self, batch: Sequence[Record]) -> list[Record]:
        try:
            return self._store(batch)
        except (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.StatementError) as error:
            if len(batch) > 1:  # one that the database refuses must not hold the others back
                return [new for record in batch for new in self.store([record])]
            _LOG.error("a record of %s is left out: %s", batch[0].address, error)
            return []

    def _store(self, batch: Sequence[Record]) -> list[Record]:
        rows: dict[sa.Table, list[tuple[Record, dict[str, object]]]] = {}
        for record in batch:
            table, row = self._row(record)
            rows.setdefault(table, []).append((record, row))
        new: list[Record] = []
        with self._database.writing() as c:
            for table, pairs in rows.items():
                new += self._insert(c, table, pairs)
            self._note_twins(c, new)
            self._add_up(c, new)
        return new

    def events(self, limit: int, device: str = "") -> list[StoredEvent]:
        e = t.events.c
        query = sa.select(t.events).where(e.tenant == self._tenant)
        if device:
            query = query.where(e.device == device)
        with self._database.reading() as c:
            return [
                read_event(row) for row in c.execute(query.order_by(e.number.desc()).limit(limit))
            ]

    def totals(self) -> list[Totals]:
        query = sa.select(t.totals).where(t.totals.c.tenant == self._tenant)
        with self._database.reading() as c:
            return [_read_totals(row) for row in c.execute(query)]

    def sketches(self, device: str, manifest: str, limit: int) -> list[bytes]:
        w = t.windows.c
        query = (
            sa.select(w.body)
            .where(w.tenant == self._tenant, w.device == device, w.manifest == manifest)
            .order_by(w.number.desc())
            .limit(limit)
        )
        with self._database.reading() as c:
            bodies = c.execute(query).scalars().all()
        found = (Window.decode(body).sketches for body in bodies if body)
        return [sketches for sketches in found if sketches]

    def slim(self, keep: int) -> bool:
        k = t.totals.c
        with self._database.reading() as c:
            pairs = c.execute(sa.select(k.device, k.manifest).where(k.tenant == self._tenant)).all()
        return any(self._slim(device, manifest, keep) for device, manifest in pairs)

    def prune(self, windows_before: float, events_before: float) -> int:
        old = (
            (t.windows, t.windows.c.received < windows_before),
            (t.twins, t.twins.c.received < windows_before),
            (t.events, (t.events.c.received < events_before) & t.events.c.applied),
        )
        gone = 0
        with self._database.writing() as c:
            for table, condition in old:
                mine = table.c.tenant == self._tenant
                gone += c.execute(table.delete().where(mine, condition)).rowcount
        return gone

    def set_drift(self, device: str, manifest: str, verdict: str) -> None:
        with self._database.writing() as c:
            one = self._of(device, manifest)
            c.execute(t.totals.update().where(one).values(drift=verdict))

    def _slim(self, device: str, manifest: str, keep: int) -> bool:
        """Empty bodies from the oldest on, so that all before an empty one are empty."""
        w = t.windows.c
        mine = (w.tenant == self._tenant) & (w.device == device) & (w.manifest == manifest)
        newest = sa.select(w.number).where(mine).order_by(w.number.desc()).limit(1)
        with self._database.reading() as c:
            last = c.execute(newest.offset(keep)).scalar()
            if last is None:
                return False
            empty = (w.number <= last) & (sa.func.length(w.body) == 0)
            done = c.execute(newest.where(empty)).scalar() or 0
        full = sa.select(w.number).where(mine, w.number > done, w.number <= last)
        batch = full.where(sa.func.length(w.body) > 0).order_by(w.number).limit(_SLIM_BATCH)
        with self._database.writing() as c:
            which = w.number.in_(batch.scalar_subquery())
            gone = c.execute(t.windows.update().where(which).values(body=b"")).rowcount
        return gone == _SLIM_BATCH

    def _of(self, device: str, manifest: str) -> sa.ColumnElement[bool]:
        k = t.totals.c
        return (k.tenant == self._tenant) & (k.device == device) & (k.manifest == manifest)

    def _row(self, record: Record) -> tuple[sa.Table, dict[str, object]]:
        tenant, device, boot, _, seq = record.key
        row: dict[str, object] = {"tenant": tenant, "device": device, "boot": boot, "seq": seq}
        row["received"] = record.received
        match record.value:
            case Window() as window:
                names = ("start", "end", "clock", "manifest", "artifact", "requests", "rows")
                row |= {name: getattr(window, name) for name in names}
                return t.windows, row | {"errors": window.failures, "body": window.encode()}
            case Event() as event:
                names = ("kind", "at", "release", "rollout", "reason", "delta_bytes", "full_bytes")
                row |= {name: getattr(event, name) for name in names}
                # PostgreSQL keeps no NUL in a text.
                row |= {k: v.replace("\0", "") for k, v in row.items() if isinstance(v, str)}
                return t.events, row | {"applied": False}
            case TwinReported() as twin:
                return t.twins, row | {"at": twin.at, "body": twin.encode()}

    def _insert(
        self, c: sa.Connection, table: sa.Table, pairs: list[tuple[Record, dict[str, object]]]
    ) -> list[Record]:
        """Insert what is not there; returns it, each once even if the batch holds it twice."""
        key = (table.c.tenant, table.c.device, table.c.boot, table.c.seq)
        insert = self._database.insert_new(table).returning(*key)
        fresh = {tuple(row) for row in c.execute(insert, [row for _, row in pairs])}
        new = []
        for record, _ in pairs:
            tenant, device, boot, _, seq = record.key
            if (tenant, device, boot, seq) in fresh:
                fresh.discard((tenant, device, boot, seq))
                new.append(record)
        return new

    def _note_twins(self, c: sa.Connection, new: Sequence[Record]) -> None:
        seen: dict[str, tuple[float, int]] = {}
        for record in new:
            device = str(record.address.device)
            at, dropped = seen.get(device, (0.0, 0))
            seen[device] = (max(at, record.received), max(dropped, record.dropped))
            if not isinstance(record.value, TwinReported):
                continue
            twin, d = record.value, t.devices.c
            c.execute(
                t.devices.update()
                .where(d.tenant == self._tenant, d.id == device)
                .where(sa.or_(d.twin_boot != record.boot, d.twin_seq < record.seq))
                .values(
                    active=twin.active.release if twin.active else "",
                    active_manifest=twin.active.manifest if twin.active else "",
                    artifact=twin.active.artifact if twin.active else "",
                    busy=twin.candidate is not None,
                    twin_boot=record.boot,
                    twin_seq=record.seq,
                )
            )
        for device, (at, dropped) in seen.items():
            d = t.devices.c
            one = (d.tenant == self._tenant) & (d.id == device)
            c.execute(
                t.devices.update()
                .where(one)
                .values(
                    last_seen=sa.case((d.last_seen < at, at), else_=d.last_seen),
                    dropped=sa.case((d.dropped < dropped, dropped), else_=d.dropped),
                )
            )

    def _add_up(self, c: sa.Connection, new: Sequence[Record]) -> None:
        sums: dict[tuple[str, str], Totals] = {}
        for record in new:
            if not isinstance(record.value, Window):
                continue
            key = (str(record.address.device), record.value.manifest)
            if key not in sums:
                query = sa.select(t.totals).where(self._of(*key)).with_for_update()
                row = c.execute(query).one_or_none()
                sums[key] = added(_read_totals(row) if row else None, key[0], record.value)
            else:
                sums[key] = added(sums[key], key[0], record.value)
        for total in sums.values():
            values = {name: getattr(total, name) for name in _TOTALS}
            values["latency"] = msgspec.msgpack.encode(total.latency)
            c.execute(self._database.upsert(t.totals, {"tenant": self._tenant, **values}))


def _read_totals(row: sa.Row[Any]) -> Totals:
    values = {name: getattr(row, name) for name in _TOTALS}
    try:
        values["latency"] = msgspec.msgpack.decode(row.latency, type=Histogram)
    except msgspec.MsgspecError:  # of a time when less was asked of it
        values["latency"] = Histogram()
    return Totals(**values)
