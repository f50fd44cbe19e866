"""What a person sees on the road: numbered steps, what is going on, what came of it."""

import itertools
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PAINT = re.compile(r"\x1b\[\d+m")
_BOLD, _DIM, _GREEN, _RED, _OFF = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m"


class Stage:
    """Draws steps on a terminal, or writes them as plain lines elsewhere."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._doing = ""
        self._began = time.monotonic()
        self.transcript: list[str] = []

    def title(self, text: str) -> None:
        self._print(f"\n{self._paint(_BOLD, text)}\n")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """One numbered step of the road, with the time it took."""
        began = time.monotonic()
        self._print(self._paint(_BOLD, f"{next(self._numbers)}  {text}"))
        stop = threading.Event()
        spinner = threading.Thread(target=self._spin, args=(stop, began), daemon=True)
        if self._live:
            spinner.start()
        try:
            yield
        finally:
            stop.set()
            if self._live:
                spinner.join()
            self._doing = ""
        self._print(self._paint(_DIM, f"   {time.monotonic() - began:.1f} s") + "\n")

    def doing(self, text: str) -> None:
        """What is going on right now; replaced by the next one."""
        self._doing = text

    def done(self, text: str) -> None:
        """Something that came out well."""
        self._print(f"   {self._paint(_GREEN, '✓')} {text}")

    def refused(self, text: str) -> None:
        """Something that was offered and rightly turned down."""
        self._print(f"   {self._paint(_GREEN, '✓')} refused: {text}")

    def failed(self, text: str) -> None:
        self._print(f"   {self._paint(_RED, '✗')} {text}")

    def block(self, text: str) -> None:
        """A table or another block of lines."""
        self._print("\n" + "\n".join(f"   {line}" for line in text.splitlines()) + "\n")

    @property
    def seconds(self) -> float:
        """Since the stage was set."""
        return time.monotonic() - self._began

    def _spin(self, stop: threading.Event, began: float) -> None:
        for frame in itertools.cycle(_FRAMES):
            if stop.wait(0.1):
                break
            with self._lock:
                text = f"   {frame} {self._doing[:70]}  {time.monotonic() - began:.0f} s"
                self._stream.write(f"\r\x1b[2K{self._paint(_DIM, text)}")
                self._stream.flush()
        with self._lock:
            self._stream.write("\r\x1b[2K")

    def _print(self, text: str) -> None:
        self.transcript += _PAINT.sub("", text).splitlines()
        with self._lock:
            clear = "\r\x1b[2K" if self._live else ""
            self._stream.write(f"{clear}{text}\n")
            self._stream.flush()

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_OFF}" if self._live else text
