"""How a command speaks: results to stdout, everything else to stderr.

With `--json` stdout carries exactly one JSON document. Progress is drawn only on a terminal, or
written as plain lines where `SKERRY_PROGRESS=plain` asks for them.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

import msgspec

__all__ = ["Output", "Progress", "human_bytes", "shown", "table"]

_BAR_CELLS = 24
_REDRAW_SECONDS = 0.1
_MOST_SHOWN = 200


@dataclass
class Output:
    """Where a command's words go.

    Attributes:
        as_json: whether the result is one JSON document.
        out, err: stdout and stderr.
    """

    as_json: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    def result(self, document: Any, text: str) -> None:
        """The command's answer: `document` (msgspec-encodable) with `--json`, else `text`."""
        if self.as_json:
            encoded = msgspec.json.format(msgspec.json.encode(document, order="deterministic"))
            text = encoded.decode()
        print(text, file=self.out, flush=True)

    def note(self, text: str) -> None:
        """A line beside the result, for people."""
        print(text, file=self.err, flush=True)

    @contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Progress]:
        """Show how far a long piece of work has come; `total` in whatever is counted."""
        progress = Progress(label, total, self.err, self.err.isatty())
        try:
            yield progress
            progress.finish("done")
        except BaseException:
            progress.finish("stopped")
            raise


class Progress:
    """One line that says what is being done and how far it is."""

    def __init__(self, label: str, total: int | None, stream: TextIO, live: bool) -> None:
        self._label, self._total, self._stream, self._live = label, total, stream, live
        self._plain = not live and os.environ.get("SKERRY_PROGRESS") == "plain"
        self._done, self._detail = 0, ""
        self._began, self._drawn = time.monotonic(), 0.0

    def advance(self, count: int = 1, detail: str = "") -> None:
        """`count` more are done; `detail` says what is being looked at."""
        self._done += count
        self._detail = detail or self._detail
        if self._live and time.monotonic() - self._drawn > _REDRAW_SECONDS:
            self._draw()

    def finish(self, word: str) -> None:
        """Leave the line as it stands, with the time it took."""
        seconds = time.monotonic() - self._began
        if self._live:
            self._stream.write(f"\r\x1b[2K{self._label}: {word} in {seconds:.1f} s\n")
        elif self._plain:
            self._stream.write(f"{self._label}: {word} in {seconds:.1f} s\n")
        self._stream.flush()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        text = f"{self._label} "
        if self._total:
            share = min(1.0, self._done / self._total)
            full = int(share * _BAR_CELLS)
            text += f"{'█' * full}{'░' * (_BAR_CELLS - full)} {share:4.0%} "
            if 0 < share < 1:
                left = (self._drawn - self._began) * (1 - share) / share
                text += f"{left:.0f} s left "
        text += self._detail
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[2K{text[:width]}")
        self._stream.flush()


def human_bytes(count: int) -> str:
    """`1536` → `1.5 kB` (decimal units)."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    for unit in units:
        if value < 1000 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def shown(value: object) -> str:
    """`value` as text for a terminal: control characters as escapes, at most 200 characters."""
    text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table: numbers to the right, words to the left, nothing that moves a terminal."""
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    numeric = [
        all(row[i][:1].isdigit() or row[i][:1] in "-+." for row in cells if row[i])
        for i in range(len(head))
    ]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(head)), "  ".join("─" * w for w in widths), *map(line, cells)])
