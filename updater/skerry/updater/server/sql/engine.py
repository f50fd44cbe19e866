"""Opening the database: its settings, its migrations, and the wrapping of its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql, sqlite

from skerry.devices.errors import InputError, UnavailableError

__all__ = ["Database", "migrate", "open_database"]

_BUSY_MILLISECONDS = 10_000
_POOL = 24
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


class Database:
    """Transactions on one engine.

    Args:
        engine: bound to SQLite or PostgreSQL.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(writes=True)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for queries; UnavailableError if the database does not answer."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except _AWAY as error:
            raise _unavailable(error) from error

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction, committed when the block ends well."""
        try:
            with self._writing.begin() as connection:
                yield connection
        except _AWAY as error:
            raise _unavailable(error) from error

    def insert_new(self, table: sa.Table) -> Any:
        """An INSERT that leaves rows out which are there already."""
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table).on_conflict_do_nothing()

    def upsert(self, table: sa.Table, row: Mapping[str, object]) -> Any:
        """An INSERT that replaces the row with the same primary key."""
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        keys = [column.name for column in table.primary_key]
        changed = {name: value for name, value in row.items() if name not in keys}
        statement = dialect.insert(table).values(row)
        return statement.on_conflict_do_update(index_elements=keys, set_=changed)


def open_database(url: str) -> Database:
    """Connect, and bring the schema up to this version.

    Args:
        url: `sqlite:////path/fleet.db` or `postgresql+psycopg://…`.

    Raises:
        InputError: the URL is malformed, or names a database of another kind.
        UnavailableError: the database does not answer.
    """
    try:
        engine = sa.create_engine(
            url,
            pool_size=_POOL,
            max_overflow=_POOL,
            pool_pre_ping=not url.startswith("sqlite"),
        )
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        raise InputError(
            f"not a database that can be used: {error}",
            where=url.partition("@")[2] or url,
            remedy="expected sqlite:////path or postgresql+psycopg://user@host/name",
        ) from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _tune_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    elif engine.dialect.name != "postgresql":
        raise InputError(f"{engine.dialect.name} is not supported", where="database")
    database = Database(engine)
    migrate(database)
    return database


def migrate(database: Database) -> None:
    """Apply the migrations that the database has not seen, in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _tune_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, and by nobody else
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_MILLISECONDS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes the lock at once: one that began as a reader could not wait for it."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _unavailable(error: Exception) -> UnavailableError:
    cause = getattr(error, "orig", None) or error
    return UnavailableError(f"the database does not answer: {cause}", where="database")
