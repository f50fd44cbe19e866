"""What Alembic runs: migrations on the connection that `engine.migrate` hands in."""

from __future__ import annotations

from alembic import context

__all__: list[str] = []

_connection = context.config.attributes["connection"]
context.configure(connection=_connection, transactional_ddl=False)
context.run_migrations()
