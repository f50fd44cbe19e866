"""The server's answers as text for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from skerry.devices.output import human_bytes, shown, table
from skerry.updater.server.records import AuditEntry

__all__ = ["audit", "devices", "events", "releases", "rollout", "rollouts"]

_SHORT = 19


def devices(document: Mapping[str, Any]) -> str:
    """The fleet view."""
    head = [
        "device",
        "state",
        "release",
        "requests",
        "p50 ms",
        "p99 ms",
        "errors",
        "drift",
        "delta",
        "full",
    ]
    rows = [
        [
            d["device"],
            "revoked" if d["revoked"] else "online" if d["online"] else "offline",
            d["release"] or "–",
            d["requests"],
            f"{d['p50_ms']:.2f}" if d["requests"] else "",
            f"{d['p99_ms']:.2f}" if d["requests"] else "",
            d["errors"],
            d["drift"] or "–",
            human_bytes(d["delta_bytes"]) if d["full_bytes"] else "",
            human_bytes(d["full_bytes"]) if d["full_bytes"] else "",
        ]
        for d in document["devices"]
    ]
    return table(head, rows) if rows else "no device is enrolled"


def releases(document: Mapping[str, Any]) -> str:
    """What is published."""
    rows = [
        [
            r["release"],
            r["version"],
            r["manifest"][:_SHORT],
            _when(r["published_at"]),
            "withdrawn" if r.get("withdrawn") else "",
        ]
        for r in document["releases"]
    ]
    return (
        table(["release", "version", "manifest", "published", ""], rows) if rows else "no release"
    )


def events(document: Mapping[str, Any]) -> str:
    """What happened."""
    rows = [
        [_when(e["received"]), e["device"], e["kind"], e["release"], e["reason"]]
        for e in document["events"]
    ]
    return table(["when", "device", "what", "release", "reason"], rows) if rows else "no event"


def rollouts(document: Mapping[str, Any]) -> str:
    """Every rollout in a line."""
    rows = [
        [r["id"], r["release"], r["state"], r["stage"], len(r["devices"]), r["reason"]]
        for r in document["rollouts"]
    ]
    head = ["id", "release", "state", "stage", "devices", "reason"]
    return table(head, rows) if rows else "no rollout"


def rollout(r: Mapping[str, Any]) -> str:
    """One rollout with its stages and devices."""
    lines = [
        f"{r['id']}  {r['release']}  {r['state']}"
        + (f": {shown(r['reason'])}" if r["reason"] else "")
    ]
    stages = [
        [s["name"], s["reach"], s["chosen"], s["succeeded"], s["failed"], s["late"]]
        for s in r["stages"]
    ]
    lines.append(table(["stage", "reach", "chosen", "succeeded", "failed", "late"], stages))
    if r["devices"]:
        rows = [[d["device"], d["stage"], d["state"], d["reason"]] for d in r["devices"]]
        lines.append(table(["device", "stage", "state", "reason"], rows))
    lines += [
        f"delta {d['artifact']}: {human_bytes(d['patch_bytes'])} for {human_bytes(d['full_bytes'])}"
        for d in r["deltas"]
        if d["patch"]
    ]
    return "\n\n".join(lines)


def audit(entries: Iterable[AuditEntry]) -> str:
    """The log."""
    rows = [[e.seq, _when(e.at), e.actor, e.action, e.subject, e.details] for e in entries]
    return table(["seq", "when", "who", "did", "to", "details"], rows)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
