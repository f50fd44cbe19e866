"""The database: migrations make what the tables say, and what was kept once opens for ever."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fakes.postgres import postgres
from skerry.devices.errors import InputError, UnavailableError
from skerry.updater.rollout import Policy, Stage
from skerry.updater.server.audit import verify_chain
from skerry.updater.server.sql import open_fleet
from skerry.updater.server.sql.engine import migrate, open_database
from skerry.updater.server.sql.tables import METADATA


def _differences(url: str) -> list[object]:
    database = open_database(url)
    migrate(database)  # a second time changes nothing
    with database.reading() as c:
        found = compare_metadata(MigrationContext.configure(c), METADATA)
    database.engine.dispose()
    return found


def test_the_migrations_make_what_the_tables_say(tmp_path: Path) -> None:
    assert _differences(f"sqlite:///{tmp_path}/fleet.db") == []


@pytest.mark.service("postgres")
def test_the_migrations_make_what_the_tables_say_on_postgresql() -> None:
    with postgres() as url:
        assert _differences(url) == []


def test_a_database_of_version_1_opens(root: Path, tmp_path: Path) -> None:
    dump = (root / "tests" / "golden" / "v1" / "fleet.sql").read_text()
    with sqlite3.connect(tmp_path / "fleet.db") as old:
        old.executescript(dump)
    store = open_fleet(f"sqlite:///{tmp_path}/fleet.db", "main")
    (device,) = store.registry.devices()
    assert (device.id, device.active, device.artifact) == ("dev-1", "digits/1", "onnx-int8")
    (claim,) = store.registry.claims()
    assert claim.used_by == "dev-1"
    (rollout,) = store.rollouts.all()
    assert rollout.policy == Policy(stages=(Stage("a", devices=("dev-1",)), Stage("b", percent=50)))
    assert [(a.device, a.state) for a in rollout.assignments] == [("dev-1", "succeeded")]
    (total,) = store.telemetry.totals()
    assert (total.requests, total.errors, total.latency.count) == (10, 1, 9)
    assert [e.kind for e in store.telemetry.events(5)] == ["committed"]
    assert [r.release for r in store.access.releases()] == ["digits/1"]
    assert store.access.operator("hash") is not None
    assert verify_chain(store.audit.entries()) == 2
    store.close()


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "oracle+nothing://x"])
def test_another_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="sqlite"):
        open_database(url)


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        open_database(f"sqlite:///{tmp_path}/no/such/folder/fleet.db")
