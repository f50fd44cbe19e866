"""A small parent that holds the socket and the worker: when the worker dies, connections wait.

It imports nothing heavy, so it costs little and has little that could fail. The worker never
outlives it.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread, Timer

from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import write_atomically
from skerry.devices.lock import exclusive
from skerry.updater.agent.log import Log

__all__ = ["SuperviseLimits", "bind", "die_with_parent", "on_signals", "supervise"]

_LISTEN_FDS_START = 3
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperviseLimits:
    """How a worker is started again.

    Attributes:
        first_s, longest_s: seconds to wait before a restart, doubling from one to the other.
        healthy_s: a worker that lived as long begins at `first_s` again.
        end_s: seconds it has to end when asked, before it is killed.
        backlog: connections that wait while there is no worker.
    """

    first_s: float = 0.1
    longest_s: float = 10.0
    healthy_s: float = 10.0
    end_s: float = 20.0
    backlog: int = 512


def supervise(
    home: Path,
    http: str,
    worker: Callable[[int], Sequence[str]],
    *,
    log: Log,
    limits: SuperviseLimits | None = None,
) -> int:
    """Keep a worker running until SIGTERM or SIGINT. Returns the exit code for the parent.

    Args:
        http: `HOST:PORT` to serve on.
        worker: the command line of a worker that serves on the inherited socket of this number.

    Raises:
        InputError: the address cannot be read, or the worker says its input is bad.
        UnavailableError: the address is taken, or another agent runs in this home.
    """
    limits = limits or SuperviseLimits()
    with exclusive(home / "agent.lock"), bind(http, home, limits.backlog) as listener:
        host, port = listener.getsockname()[:2]
        write_atomically(home / "runtime.port", f"{port}\n".encode())
        write_atomically(home / "runtime.address", f"{host}:{port}\n".encode())
        try:
            return _Keeper(home, listener.fileno(), worker, log, limits).run()
        finally:
            for name in ("worker.pid", "runtime.address"):
                with suppress(OSError):
                    (home / name).unlink(missing_ok=True)


class _Keeper:
    """Starts the worker, again and again, until it is told to stop."""

    def __init__(
        self,
        home: Path,
        number: int,
        worker: Callable[[int], Sequence[str]],
        log: Log,
        limits: SuperviseLimits,
    ) -> None:
        self._home, self._number, self._worker = home, number, worker
        self._log, self._limits = log, limits
        self._lock, self._stop = Lock(), Event()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        on_signals(self._end, self._wake)
        pause = self._limits.first_s
        while not self._stop.is_set():
            began = time.monotonic()
            code = self._start().wait()
            if self._stop.is_set():
                break
            if code == InputError.exit_code:
                return code
            if time.monotonic() - began >= self._limits.healthy_s:
                pause = self._limits.first_s
            self._log("worker_died", code=code, restart_s=pause)
            self._stop.wait(pause)
            pause = min(2 * pause, self._limits.longest_s)
        return 0

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            child = subprocess.Popen(list(self._worker(self._number)), pass_fds=[self._number])
            self._child = child
            if self._stop.is_set():
                child.terminate()
        write_atomically(self._home / "worker.pid", f"{child.pid}\n".encode())
        return child

    def _wake(self) -> None:
        with self._lock:
            if self._child is not None and self._child.poll() is None:
                self._child.send_signal(signal.SIGHUP)

    def _end(self) -> None:
        """Ask the worker to end, and see that it does."""
        with self._lock:
            self._stop.set()
            child = self._child
            if child is None or child.poll() is not None:
                return
            child.terminate()
        killer = Timer(self._limits.end_s, child.kill)
        killer.daemon = True
        killer.start()


def on_signals(end: Callable[[], None], wake: Callable[[], None]) -> None:
    """Have SIGTERM and SIGINT call `end`, and SIGHUP `wake`, on a thread: they may take locks."""
    known = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, known)

    def wait() -> None:
        while signal.sigwait(known) == signal.SIGHUP:
            wake()
        end()

    Thread(target=wait, name="signals", daemon=True).start()


def die_with_parent(parent: int) -> None:
    """See that this process is killed when the process `parent` ends, on Linux."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def bind(http: str, home: Path, backlog: int) -> socket.socket:
    """The listening socket: systemd's if it hands one over, else a new one on `http`.

    With port 0 the port of the last run is taken again if it is free.

    Raises:
        InputError: `http` is no `HOST:PORT` of this machine alone.
        UnavailableError: the address is taken.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=_LISTEN_FDS_START)
    host, colon, port = http.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise InputError(f"{http[:80]!r} is no address", remedy="expected HOST:PORT")
    host = host.strip("[]") or "127.0.0.1"
    if not _is_loopback(host):
        raise InputError(
            f"{host} can be reached from other machines",
            where=http,
            remedy="serve on 127.0.0.1, or hand over a socket that was opened for it (systemd)",
        )
    if int(port) == 0 and (last := _last_port(home)):
        with suppress(OSError):
            return _listening(host, last, backlog)
    try:
        return _listening(host, int(port), backlog)
    except OSError as error:
        raise UnavailableError(f"cannot listen: {error.strerror}", where=http) from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _last_port(home: Path) -> int:
    try:
        text = (home / "runtime.port").read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() and int(text) < 65_536 else 0
