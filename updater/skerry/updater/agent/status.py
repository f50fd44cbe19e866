"""`skerry agent status`: what a device holds and does, read from its files, running or not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from skerry.devices.enrolment import AgentSettings
from skerry.devices.output import Output, human_bytes, table
from skerry.updater.store.journal import read_situation
from skerry.updater.store.slots import Held

__all__ = ["show", "situation"]


def show(home: Path, output: Output) -> int:
    """Print the status of the device in `home`."""
    document = situation(home)
    output.result(document, _text(document))
    return 0


def situation(home: Path) -> dict[str, Any]:
    """What the files in `home` say.

    Raises:
        InputError: the home is not enrolled, or a file is malformed.
    """
    settings = AgentSettings.load(home)
    now = read_situation(home / "store")
    slots = {
        name: _slot(held)
        for name, held in (
            ("active", now.slots.active),
            ("previous", now.slots.previous),
            ("candidate", now.slots.candidate),
        )
    }
    return {
        "device": settings.device,
        "tenant": settings.tenant,
        "server": settings.server,
        "address": _read(home / "runtime.address"),
        "slots": slots,
        "update": None if now.update is None else msgspec.to_builtins(now.update),
        "failed": msgspec.to_builtins(now.slots.bad),
    }


def _slot(held: Held | None) -> dict[str, Any] | None:
    if held is None:
        return None
    return {
        "release": held.release,
        "version": held.version,
        "artifact": held.artifact,
        "manifest": held.manifest.digest,
        "bytes": held.manifest.size + sum(blob.size for blob in held.blobs),
    }


def _text(document: dict[str, Any]) -> str:
    lines = [
        f"{document['device']} of {document['tenant']}, server {document['server']}",
        f"serving at {document['address']}" if document["address"] else "not running",
    ]
    rows = [
        [name, slot["release"], slot["version"], slot["artifact"], human_bytes(slot["bytes"])]
        for name, slot in document["slots"].items()
        if slot
    ]
    lines.append(table(["slot", "release", "version", "artifact", "size"], rows) if rows else "")
    if document["update"]:
        lines.append(f"update to {document['update']['release']}: {document['update']['state']}")
    lines += [f"{bad['release']} failed here: {bad['reason']}" for bad in document["failed"]]
    return "\n".join(line for line in lines if line)


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
