"""Show what changed from one bundle to another: signature, artifacts, metrics, bytes to fetch.

Examples:
    skerry diff v1/bundle v2/bundle
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from skerry.devices.output import Output, human_bytes, table
from skerry.runtime.bundle.diff import ArtifactChange, BundleDiff, diff
from skerry.runtime.bundle.reader import Bundle

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("old", type=Path, help="the folder of a bundle")
    parser.add_argument("new", type=Path, help="the folder of another")


def run(args: Namespace, output: Output) -> int:
    found = diff(Bundle.open(args.old), Bundle.open(args.new))
    output.result(msgspec.to_builtins(found), _text(found))
    return 0


def _text(found: BundleDiff) -> str:
    if found.same:
        return f"{found.before}: the same bundle, byte for byte"
    lines = [
        f"{found.before} → {found.after}",
        "callers need not change" if found.compatible else "callers must change",
        *found.signature,
        *(f"document {name} differs" for name in found.documents),
        f"{human_bytes(found.new_bytes)} new, {human_bytes(found.shared_bytes)} shared",
    ]
    if found.artifacts:
        rows = [_row(change) for change in found.artifacts]
        lines += ["", table(["artifact", "before", "after", "metrics"], rows)]
    return "\n".join(lines)


def _row(change: ArtifactChange) -> list[str]:
    sizes = ["" if n is None else human_bytes(n) for n in (change.before, change.after)]
    metrics = [f"{name} {a:g} → {b:g}" for name, (a, b) in change.metrics.items() if a != b]
    return [change.name, *sizes, ", ".join(metrics)]
