"""Devices, claims, operators and releases in SQL."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from skerry.devices.errors import InputError, TrustError
from skerry.updater.server.admission import check_claim
from skerry.updater.server.records import Claim, Delta, Device, Operator, PublishedRelease
from skerry.updater.server.sql import tables as t
from skerry.updater.server.sql.engine import Database

__all__ = ["SqlAccess", "SqlRegistry"]

_T = TypeVar("_T", bound=msgspec.Struct)


def _read(kind: type[_T], row: sa.Row[Any]) -> _T:
    return kind(**{name: getattr(row, name) for name in kind.__struct_fields__})


class SqlRegistry:
    """`Registry` in SQL."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    def add_claim(self, claim: Claim) -> None:
        row = msgspec.structs.asdict(claim)
        with self._database.writing() as c:
            c.execute(t.claims.insert().values(tenant=self._tenant, **row))

    def claim(self, token_hash: str) -> Claim | None:
        k = t.claims.c
        query = sa.select(t.claims).where(k.tenant == self._tenant, k.token_hash == token_hash)
        with self._database.reading() as c:
            row = c.execute(query).one_or_none()
        return _read(Claim, row) if row else None

    def claims(self) -> list[Claim]:
        query = sa.select(t.claims).where(t.claims.c.tenant == self._tenant)
        with self._database.reading() as c:
            rows = c.execute(query.order_by(t.claims.c.created_at.desc())).all()
        return [_read(Claim, row) for row in rows]

    def enrol(self, token_hash: str, device: Device, now: float) -> Device:
        of_claim = (t.claims.c.tenant == self._tenant) & (t.claims.c.token_hash == token_hash)
        with self._database.writing() as c:
            row = c.execute(sa.select(t.claims).where(of_claim).with_for_update()).one_or_none()
            claim = check_claim(_read(Claim, row) if row else None, device, now)
            if claim.used_at:
                before = self._one(c, claim.used_by)
                if before is None or before.key_digest != device.key_digest:
                    raise TrustError("the claim was used", where="token")
                return before
            known = self._one(c, device.id)
            if known is not None and not known.revoked_at:
                raise InputError(
                    f"a device {device.id} is enrolled already",
                    where="name",
                    remedy="choose another name, or revoke that device first",
                )
            values = {
                "tenant": self._tenant,
                "twin_boot": "",
                "twin_seq": 0,
                **msgspec.structs.asdict(device),
            }
            c.execute(self._database.upsert(t.devices, values))
            c.execute(
                t.claims.update()
                .where(of_claim)
                .values(used_at=now, used_by=device.id, key_digest=device.key_digest)
            )
        return device

    def device(self, device_id: str) -> Device | None:
        with self._database.reading() as c:
            return self._one(c, device_id)

    def devices(self) -> list[Device]:
        query = sa.select(t.devices).where(t.devices.c.tenant == self._tenant)
        with self._database.reading() as c:
            rows = c.execute(query.order_by(t.devices.c.id)).all()
        return [_read(Device, row) for row in rows]

    def renew(self, device_id: str, certificate: str, key_digest: str, not_after: float) -> None:
        self._change(device_id, certificate=certificate, key_digest=key_digest, not_after=not_after)

    def revoke(self, device_id: str, now: float) -> bool:
        of_device = self._is(device_id) & (t.devices.c.revoked_at == 0)
        with self._database.writing() as c:
            change = t.devices.update().where(of_device).values(revoked_at=now, online=False)
            return c.execute(change).rowcount > 0

    def presence(self, device_id: str, online: bool, boot: str, at: float) -> None:
        if online:
            self._change(device_id, online=True, boot=boot, last_seen=at)
            return
        # The Last Will of an earlier connection must not end a later one.
        with self._database.writing() as c:
            of_boot = self._is(device_id) & (t.devices.c.boot == boot)
            c.execute(t.devices.update().where(of_boot).values(online=False))

    def all_offline(self) -> None:
        mine = t.devices.c.tenant == self._tenant
        with self._database.writing() as c:
            c.execute(t.devices.update().where(mine, t.devices.c.online).values(online=False))

    def _change(self, device_id: str, **values: object) -> None:
        with self._database.writing() as c:
            c.execute(t.devices.update().where(self._is(device_id)).values(**values))

    def _is(self, device_id: str) -> sa.ColumnElement[bool]:
        return (t.devices.c.tenant == self._tenant) & (t.devices.c.id == device_id)

    def _one(self, c: sa.Connection, device_id: str) -> Device | None:
        row = c.execute(sa.select(t.devices).where(self._is(device_id))).one_or_none()
        return _read(Device, row) if row else None


class SqlAccess:
    """`Access` in SQL."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    def add_operator(self, operator: Operator) -> None:
        row = msgspec.structs.asdict(operator)
        with self._database.writing() as c:
            c.execute(t.operators.insert().values(tenant=self._tenant, **row))

    def operator(self, token_hash: str) -> Operator | None:
        o = t.operators.c
        query = sa.select(t.operators).where(
            o.tenant == self._tenant, o.token_hash == token_hash, o.revoked_at == 0
        )
        with self._database.reading() as c:
            row = c.execute(query).one_or_none()
        return _read(Operator, row) if row else None

    def add_release(self, release: PublishedRelease) -> None:
        row = {"tenant": self._tenant, **msgspec.structs.asdict(release)}
        with self._database.writing() as c:
            c.execute(self._database.insert_new(t.releases).values(row))

    def releases(self) -> list[PublishedRelease]:
        r = t.releases.c
        query = sa.select(t.releases).where(r.tenant == self._tenant)
        with self._database.reading() as c:
            rows = c.execute(query.order_by(r.published_at.desc(), r.release.desc())).all()
        return [_read(PublishedRelease, row) for row in rows]

    def add_delta(self, delta: Delta) -> None:
        row = {"tenant": self._tenant, **msgspec.structs.asdict(delta)}
        with self._database.writing() as c:
            c.execute(self._database.upsert(t.deltas, row))

    def deltas(self) -> list[Delta]:
        query = sa.select(t.deltas).where(t.deltas.c.tenant == self._tenant)
        with self._database.reading() as c:
            return [_read(Delta, row) for row in c.execute(query)]
