"""An engine in a process of its own, started by `isolated.IsolatedEngine`.

It ends when its parent does, also in the middle of a call: its parent holds the other end of a
pipe, and the kernel ends this process when that is closed.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path

import msgspec

from skerry.devices.errors import SkerryError
from skerry.runtime.engine._frames import Frame, receive, send
from skerry.runtime.engine._pinned import pin
from skerry.runtime.engine.base import Engine, EngineOptions
from skerry.runtime.engine.select import open_engine

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Serve one parent over the socket `words[0]`.

    Args:
        words: file descriptors of the socket and of the pipe to the parent, format, path, engine
            options as JSON, and the most bytes of address space or 0.
    """
    descriptor, lifeline, form, path, text, memory_bytes = words
    _end_with(int(lifeline))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if int(memory_bytes):
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    with socket.socket(fileno=int(descriptor)) as sock:
        try:
            options = msgspec.json.decode(text, type=EngineOptions)
            if options.cpus:
                pin(options.cpus)
            engine = open_engine(form, Path(path), options)  # type: ignore[arg-type]  # a worker's parent names a known format
        except SkerryError as error:
            send(sock, {}, Frame(error=error.problem))
            return int(error.exit_code)
        hello = Frame(name=engine.name, inputs=engine.inputs, outputs=engine.outputs)
        send(sock, {}, hello)
        try:
            while True:
                _answer(sock, engine)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return 0


def _end_with(lifeline: int) -> None:
    """End this process, by a signal that it leaves at its default, when `lifeline` is closed."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit(0)


def _answer(sock: socket.socket, engine: Engine) -> None:
    _, inputs = receive(sock)
    try:
        answer = engine.run(inputs)
    except SkerryError as error:
        send(sock, {}, Frame(error=error.problem))
    else:
        send(sock, answer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
