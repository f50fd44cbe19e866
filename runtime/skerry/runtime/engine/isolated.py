"""An engine that can crash, hang or run out of memory without taking its caller along.

It runs in a process of its own. A call that is not answered in time ends with that process killed;
a process that died is replaced at the next call, at most once per `restart_s`. The call that was
hit gets a typed error, so that a fallback can answer it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import msgspec
from numpy.typing import NDArray

from skerry.devices.digest import Descriptor, digest_file
from skerry.devices.errors import BundleError, CancelledError, SkerryError, UnavailableError
from skerry.runtime.bundle.card import Format, TensorSpec
from skerry.runtime.engine._frames import Frame, receive, send
from skerry.runtime.engine._turn import turn
from skerry.runtime.engine.base import Arrays, EngineOptions, refuse_late

__all__ = ["IsolatedEngine", "IsolationLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationLimits:
    """What an engine's process may take.

    Attributes:
        start_s: how long it may take to load the artifact.
        call_s: how long a call may wait for its turn, and how long it may then take.
        restart_s: the least time between two starts.
        memory_bytes: of address space; 0 for no limit.
    """

    start_s: float = 30.0
    call_s: float = 10.0
    restart_s: float = 0.5
    memory_bytes: int = 0


class IsolatedEngine:
    """`Engine` in a child process. Calls from several threads take turns.

    Args:
        blob: what the file must be; looked at again whenever a process is replaced.

    Raises:
        BundleError: the engine refuses the file.
        UnavailableError: the process did not start.
    """

    def __init__(
        self,
        form: Format,
        path: Path,
        options: EngineOptions,
        limits: IsolationLimits,
        blob: Descriptor | None = None,
    ) -> None:
        self._blob = blob
        self._form, self._path, self._options, self._limits = form, path, options, limits
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lifeline = -1
        self._started = self._owed_until = 0.0
        self._closed = False
        self._starting: Thread | None = None
        self._problem = ""
        self.starts = 0
        self.name = ""
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._start()

    @property
    def pid(self) -> int | None:
        """The process that runs the engine now, if one does."""
        return None if self._process is None else self._process.pid

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, NDArray[Any]]:
        """Compute every output in the child.

        A caller's deadline alone ends no process: what the child still owes then is thrown away
        before the next call.

        Raises:
            CancelledError: no turn or no answer in time.
            UnavailableError: the process died, or the engine failed.
        """
        latest = time.monotonic() + self._limits.call_s
        with turn(self._lock, latest if until is None else min(until, latest)):
            self._settle(until)
            if self._socket is None or self._starting is not None:
                self._restart(until)
            return self._call(dict(inputs), until)

    def close(self) -> None:
        """End the process."""
        self._closed = True
        self._end()

    def _call(
        self, inputs: dict[str, NDArray[Any]], until: float | None
    ) -> dict[str, NDArray[Any]]:
        assert self._socket is not None
        self._owed_until = time.monotonic() + self._limits.call_s
        self._socket.settimeout(self._limits.call_s)
        try:
            send(self._socket, inputs)
        except (OSError, ValueError) as error:
            raise self._died(error) from error
        frame, outputs = self._receive(until)
        if frame.error is not None:
            raise UnavailableError(frame.error, where="engine")
        return outputs

    def _settle(self, until: float | None) -> None:
        """Take in the answer to a call whose caller has left, if there is one."""
        if self._owed_until and self._socket is not None:
            with suppress(UnavailableError):
                self._receive(until)
            refuse_late(until)

    def _receive(self, until: float | None) -> tuple[Frame, dict[str, NDArray[Any]]]:
        """The answer to the call under way.

        Raises:
            CancelledError: it is not there at `until`, and still owed; or not within the limit of
                a call, and the process was ended.
            UnavailableError: the process died.
        """
        assert self._socket is not None
        latest = self._owed_until if until is None else min(until, self._owed_until)
        wait_s = max(0.0, latest - time.monotonic())
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(wait_s * 1e3):
            if latest < self._owed_until:
                raise CancelledError("no answer by the deadline", where="engine")
            self._end()
            raise CancelledError(
                f"no answer within {self._limits.call_s:g} s; its process was ended", where="engine"
            )
        try:
            answer = receive(self._socket)
        except (EOFError, OSError, ValueError) as error:
            raise self._died(error) from error
        self._owed_until = 0.0
        return answer

    def _died(self, error: Exception) -> UnavailableError:
        if isinstance(error, TimeoutError):
            self._end()
            return CancelledError("it takes no call; its process was ended", where="engine")
        return UnavailableError(f"its process died ({self._end()})", where="engine")

    def _restart(self, until: float | None) -> None:
        """Have the process replaced, and wait for it no longer than the caller does."""
        if self._closed:
            raise UnavailableError("the engine is closed", where=self._path)
        if self._starting is None:
            if time.monotonic() - self._started < self._limits.restart_s:
                raise UnavailableError("its process died and is not back yet", where="engine")
            self._started = time.monotonic()
            self._starting = Thread(target=self._start_again, name="skerry-engine", daemon=True)
            self._starting.start()
        self._starting.join(None if until is None else max(0.0, until - time.monotonic()))
        if self._starting.is_alive():
            raise CancelledError("its process was not back by the deadline", where="engine")
        self._starting = None
        if self._socket is None:
            raise UnavailableError(f"it cannot be loaded again: {self._problem}", where="engine")

    def _start_again(self) -> None:
        """In a thread: start, unless the file has changed."""
        try:
            if self._blob is not None and digest_file(self._path) != self._blob:
                self._problem = f"{self._path.name} was damaged; fetch the bundle again"
                return
            self._start()
        except (OSError, SkerryError) as error:
            self._problem = str(error)
        if self._closed:
            self._end()

    def _start(self) -> None:
        self._started = time.monotonic()
        self.starts += 1
        ours, theirs = socket.socketpair()
        end, self._lifeline = os.pipe()
        what = [self._form, str(self._path), msgspec.json.encode(self._options).decode()]
        handles = [theirs.fileno(), end]
        words = [*map(str, handles), *what, str(self._limits.memory_bytes)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "skerry.runtime.engine.worker", *words],
                stdin=subprocess.DEVNULL,
                pass_fds=handles,
            )
        finally:
            theirs.close()
            os.close(end)
        ours.settimeout(self._limits.start_s)
        try:
            hello, _ = receive(ours)
        except (EOFError, OSError, ValueError) as error:
            ours.close()
            how = self._end()
            raise UnavailableError(f"its process did not start ({how})", where="engine") from error
        if hello.error is not None:
            ours.close()
            self._end()
            raise BundleError(hello.error, where=self._path)
        self.name, self.inputs, self.outputs = hello.name, hello.inputs, hello.outputs
        self._socket = ours  # only now: a call may find it from another thread

    def _end(self) -> str:
        """Kill the process and forget it. Returns how it ended."""
        self._owed_until = 0.0
        sock, self._socket = self._socket, None
        process, self._process = self._process, None
        if sock is not None:
            sock.close()
        if process is None:
            return "ended"
        os.close(self._lifeline)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
        code = process.poll()
        process.kill()
        process.wait()
        if code is None:
            return "killed"
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
