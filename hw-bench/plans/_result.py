"""How a plan writes down what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from skerry.bench.machine import Reading, read_machine, read_now

__all__ = ["write_result"]


def write_result(out: Path, found: dict[str, Any], before: Reading) -> None:
    """Write what was found as JSON, with the machine and how it was before and is now; print it."""
    facts = {"machine": read_machine(), "before": before, "after": read_now()}
    text = msgspec.json.format(msgspec.json.encode(found | facts), indent=2) + b"\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(text)
    print(text.decode())
