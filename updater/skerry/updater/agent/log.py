"""One line on stderr for each thing that happens."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["Log"]


class Log:
    """Writes `time event key=value …`, one line each.

    Args:
        stream: where to; stderr if None.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def __call__(self, event: str, **facts: object) -> None:
        """Say that `event` happened."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        said = "".join(f" {key}={_word(value)}" for key, value in facts.items() if value != "")
        self._stream.write(f"{at} {event}{said}\n")
        self._stream.flush()


def _word(value: object) -> str:
    text = " ".join(str(value).split())
    return f'"{text}"' if " " in text else text
