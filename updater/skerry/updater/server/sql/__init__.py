"""The fleet store on SQLAlchemy: SQLite by default, PostgreSQL where the URL says so."""

from skerry.updater.server.sql.store import SqlFleet, open_fleet

__all__ = ["SqlFleet", "open_fleet"]
