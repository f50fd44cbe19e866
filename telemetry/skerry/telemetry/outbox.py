"""Messages that wait on the device until the server has them: bounded, and safe in a power cut."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from threading import Lock

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.errors import InputError, UnavailableError

__all__ = ["Outbox", "OutboxLimits", "Priority", "Stored"]

_FORMAT = 1
_ROW_BYTES = 64
_CLOCK_WAS_SET = 1_577_836_800.0
_EVICT_AT_ONCE = 64
_SCHEMA = """
CREATE TABLE message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot TEXT NOT NULL,
    stream TEXT NOT NULL,
    priority INTEGER NOT NULL,
    at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX message_order ON message (priority, id);
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counter VALUES ('dropped', 0);
"""
_INSERT = "INSERT INTO message (boot, stream, priority, at, body) VALUES (?, ?, ?, ?, ?)"
_HELD = "SELECT coalesce(sum(length(body) + 64), 0) FROM message"
_SIZE = (
    "SELECT count(*), coalesce(sum(length(body) + 64), 0)"
    " FROM message WHERE id BETWEEN ? AND ? AND boot = ?"
)
_DELETE = "DELETE FROM message WHERE id BETWEEN ? AND ? AND boot = ?"


class Priority(IntEnum):
    """What is lost first when space runs out: the lowest, and of those the oldest."""

    WINDOW = 0
    TWIN = 1
    EVENT = 2


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """What an outbox may hold.

    Attributes:
        bytes: all messages together, with 64 bytes for each.
        message_bytes: the longest message.
        seconds: how long windows and twins of earlier runs are kept by the wall clock. Those of
            this run are not, for the clock may be set while it runs; nor are events. The quota
            bounds them.
    """

    bytes: int = 16 << 20
    message_bytes: int = 256 << 10
    seconds: float = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class Stored:
    """One message that waits. `boot`, `stream` and `seq` are its key, with the device."""

    boot: str
    stream: str
    seq: int
    at: float
    body: bytes


class Outbox:
    """Messages in the order of their sequence numbers, which no later run of the device repeats.

    A file that is no longer a database (worn flash) is put aside as `….damaged`.

    Args:
        path: the database file; its folder exists.
        boot: this run's id (`skerry.telemetry.messages.new_boot_id`).

    Raises:
        UnavailableError: the file cannot be opened or written.
    """

    def __init__(
        self,
        path: Path,
        boot: str,
        limits: OutboxLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.boot = boot
        self.on_put: Callable[[], None] | None = None
        self._path, self._limits, self._clock = (
            path,
            limits or OutboxLimits(),
            clock or SystemClock(),
        )
        self._lock = Lock()
        try:
            self._database = self._open()
        except sqlite3.OperationalError as error:
            raise UnavailableError(f"cannot open: {error}", where=path) from error
        except sqlite3.DatabaseError:
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.replace(path.with_name(path.name + ".damaged"))
            self._database = self._open()
        with self._transaction() as database:
            self._held = _scalar(database, _HELD)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=10.0
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA journal_size_limit = {1 << 20}")
            found = _scalar(database, "PRAGMA user_version")
            if found == 0:
                database.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;"
                )
            elif found != _FORMAT:
                raise InputError(
                    f"outbox of format {found}", where=self._path, remedy="run the newer skerry"
                )
        except BaseException:
            database.close()
            raise
        return database

    def put(self, stream: str, body: bytes, *, priority: Priority) -> int:
        """Keep one message; its sequence number. It is on the medium when this returns."""
        return self.put_many([(stream, body, priority)])[0]

    def put_many(self, messages: Sequence[tuple[str, bytes, Priority]]) -> list[int]:
        """Keep several messages (stream, body, priority) in one commit; their sequence numbers.

        Raises:
            InputError: a message is longer than the limit.
            UnavailableError: the disk is full or not writable; none of them was kept.
        """
        longest = self._limits.message_bytes
        for stream, body, _ in messages:
            if len(body) > longest:
                raise InputError(f"{len(body)} bytes, at most {longest}", where=stream)
        now = self._clock.now()
        with self._transaction() as database:
            seqs = [
                int(
                    database.execute(
                        _INSERT,
                        (self.boot, stream, int(priority), now, body),
                    ).lastrowid
                    or 0
                )
                for stream, body, priority in messages
            ]
            held = self._held + sum(len(body) + _ROW_BYTES for _, body, _ in messages)
            held = self._make_room(database, self._expire(database, held, now))
        self._held = held
        if self.on_put is not None:
            self.on_put()
        return seqs

    def peek(self, count: int, *, skip: Collection[int] = ()) -> list[Stored]:
        """Up to `count` messages that wait, the most important first, without those of `skip`."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT id FROM message ORDER BY priority DESC, id LIMIT ?", (count + len(skip),)
            ).fetchall()
            wanted = [row[0] for row in rows if row[0] not in skip][:count]
            query = "SELECT boot, stream, id, at, body FROM message WHERE id = ?"
            return [Stored(*database.execute(query, (seq,)).fetchone()) for seq in wanted]

    def ack(self, boot: str, ranges: Sequence[tuple[int, int]]) -> int:
        """Forget what the server has, inclusive ranges of one run's numbers; how many it was."""
        freed = freed_bytes = 0
        with self._transaction() as database:
            for first, last in ranges:
                where = (first, min(last, 2**62), boot)
                count, size = database.execute(_SIZE, where).fetchone()
                if count:
                    database.execute(_DELETE, where)
                    freed, freed_bytes = freed + count, freed_bytes + size
        self._held -= freed_bytes
        return freed

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        with self._transaction() as database:
            return _scalar(database, "SELECT count(*) FROM message")

    @property
    def dropped(self) -> int:
        """How many messages were lost to the quota or to age, over the life of the file."""
        with self._transaction() as database:
            return _scalar(database, "SELECT value FROM counter WHERE name = 'dropped'")

    def close(self) -> None:
        """Give back the file."""
        with self._lock:
            self._database.close()

    def _expire(self, database: sqlite3.Connection, held: int, now: float) -> int:
        """Drop what is too old, except what was put before the clock was set."""
        rows = database.execute(
            "SELECT id, length(body) FROM message"
            " WHERE at BETWEEN ? AND ? AND boot != ? AND priority < ?",
            (_CLOCK_WAS_SET, now - self._limits.seconds, self.boot, int(Priority.EVENT)),
        ).fetchall()
        return held - self._drop(database, rows)

    def _make_room(self, database: sqlite3.Connection, held: int) -> int:
        while held > self._limits.bytes:
            rows, excess = [], held - self._limits.bytes
            for row in database.execute(
                "SELECT id, length(body) FROM message ORDER BY priority, id LIMIT ?",
                (_EVICT_AT_ONCE,),
            ):
                rows.append(row)
                excess -= row[1] + _ROW_BYTES
                if excess <= 0:
                    break
            held -= self._drop(database, rows)
        return held

    def _drop(self, database: sqlite3.Connection, rows: Sequence[tuple[int, int]]) -> int:
        if rows:
            database.executemany("DELETE FROM message WHERE id = ?", [(row[0],) for row in rows])
            database.execute(
                "UPDATE counter SET value = value + ? WHERE name = 'dropped'", (len(rows),)
            )
        return sum(row[1] + _ROW_BYTES for row in rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                except BaseException:
                    self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                if self._in_transaction():
                    self._database.execute("ROLLBACK")
                raise UnavailableError(
                    f"outbox: {error}", where=self._path, remedy="check the disk's free space"
                ) from error

    def _in_transaction(self) -> bool:
        try:
            return self._database.in_transaction
        except sqlite3.Error:
            return False


def _scalar(database: sqlite3.Connection, query: str) -> int:
    return int(database.execute(query).fetchone()[0])
