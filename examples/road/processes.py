"""Child processes that never outlive the road: each is known by its pid and ended by it."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class CommandFailed(Exception):
    """A command of skerry ended with another exit code than expected."""

    def __init__(self, words: list[str], code: int, tail: str) -> None:
        super().__init__(f"skerry {' '.join(words)} ended with exit code {code}\n{tail}")
        self.code = code


def _end_with_parent() -> None:
    """In the child: be told to stop if this process dies without stopping it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(words: list[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    with log.open("ab") as errors:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C reaches the road alone, which then stops them in order
            preexec_fn=_end_with_parent,
            **options,
        )


class Children:
    """Everything the road has started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def skerry(
        self, *words: str | Path, expect: int = 0, doing: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Run a command to its end and return its JSON result.

        Raises:
            CommandFailed: the exit code is not `expect`.
        """
        texts = [str(word) for word in words]
        done = self._run(["-m", "skerry.cli.main", *texts, "--json"], texts[0], doing)
        if done.returncode != expect:
            raise CommandFailed(texts, done.returncode, self._tail(texts[0]))
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def python(
        self, *words: str | Path, doing: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Run a Python file to its end and return the JSON of its last line."""
        texts = [str(word) for word in words]
        name = Path(texts[0]).stem
        done = self._run(texts, name, doing)
        if done.returncode != 0:
            raise CommandFailed(texts, done.returncode, self._tail(name))
        return json.loads(done.stdout.splitlines()[-1])

    def begin(self, name: str, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start a long-lived `skerry` command under `name`."""
        command = [sys.executable, "-m", "skerry.cli.main", *map(str, words)]
        child = _start(command, self._log(name), stdout=subprocess.DEVNULL)
        self._running[name] = child
        return child

    def alive(self, name: str) -> bool:
        return self._running[name].poll() is None

    def tail(self, name: str) -> str:
        """The last lines that `name` wrote."""
        return self._tail(name)

    def stop_all(self) -> None:
        """End every child: ask, wait, insist."""
        for child in self._running.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for child in self._running.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._running.clear()

    def _run(
        self, words: list[str], name: str, doing: Callable[[str], None] | None
    ) -> subprocess.CompletedProcess[str]:
        log = self._log(name)
        environment = {**os.environ, "SKERRY_PROGRESS": "plain"}
        child = _start(
            [sys.executable, *words], log, stdout=subprocess.PIPE, env=environment, text=True
        )
        self._running[f"command {child.pid}"] = child
        try:
            while True:
                try:
                    out, _ = child.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if doing and (line := self._tail(name, 1)):
                        doing(line)
        finally:
            if child.poll() is not None:
                del self._running[f"command {child.pid}"]
        return subprocess.CompletedProcess(words, child.returncode, out)

    def _log(self, name: str) -> Path:
        logs = self._folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        return logs / f"{name}.log"

    def _tail(self, name: str, lines: int = 8) -> str:
        text = self._log(name).read_bytes()[-4096:].decode(errors="replace")
        said = [line for line in text.splitlines() if line.strip()]
        return "\n".join(said[-lines:])


def wait_until(what: str, holds: Callable[[], Any], seconds: float) -> Any:
    """Wait for `holds()` to be truthy, and return it.

    Raises:
        TimeoutError: it did not come within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)
    return found
