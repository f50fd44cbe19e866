"""A PostgreSQL cluster of its own, on a Unix socket, for as long as a test needs it."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_QUICK = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses="]


@contextmanager
def postgres() -> Iterator[str]:
    """The SQLAlchemy URL of an empty database."""
    # PostgreSQL refuses to run as root, and socket paths are short.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)

    def run(*words: str) -> None:
        done = subprocess.run(
            words, user=user, cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "skerry", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = " ".join(
            f"-c {setting}" for setting in [*_QUICK, f"unix_socket_directories={folder}"]
        )
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            run("createdb", "-h", str(folder), "-U", "skerry", "fleet")
            yield f"postgresql+psycopg://skerry@/fleet?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
