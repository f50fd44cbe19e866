"""Check every digest of a bundle, and run its golden samples with each engine that is here.

Exits 3 where an artifact does not reproduce its golden outputs, 4 where bytes are not what their
digest says.

Examples:
    skerry verify out/bundle
    skerry verify out/bundle --digests-only
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from skerry.devices.errors import GoldenError
from skerry.devices.output import Output, human_bytes, table
from skerry.runtime.bundle.card import ArtifactSpec
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.engine.select import available_formats
from skerry.runtime.runtime import Runtime

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the folder of a bundle")
    parser.add_argument("--digests-only", action="store_true", help="do not run golden samples")


def run(args: Namespace, output: Output) -> int:
    bundle = Bundle.open(args.bundle)
    checked = bundle.verify()
    total = sum(blob.size for blob in checked)
    artifacts, failed = [], None
    for artifact in () if args.digests_only else bundle.card.artifacts:
        try:
            artifacts.append(_golden(bundle, artifact))
        except GoldenError as error:
            failed = failed or error
            artifacts.append({"name": artifact.name, "golden": "failed", "problem": str(error)})
    document = {
        "manifest": str(bundle.manifest.digest),
        "blobs": len(checked),
        "bytes": total,
        "artifacts": artifacts,
    }
    text = f"{len(checked)} blobs, {human_bytes(total)}: every digest is right"
    if artifacts:
        rows = [[item["name"], item["golden"], item["problem"]] for item in artifacts]
        text += "\n\n" + table(["artifact", "golden", ""], rows)
    output.result(document, text)
    if failed is not None:
        raise failed
    return 0


def _golden(bundle: Bundle, artifact: ArtifactSpec) -> dict[str, Any]:
    """What the golden samples of one artifact give here."""
    if artifact.format not in available_formats():
        return {"name": artifact.name, "golden": "skipped", "problem": "no engine here runs it"}
    prepared = Runtime().prepare(bundle, artifact.name)
    worst = max(found.largest for found in prepared.golden.outputs.values())
    agree = min(found.argmax for found in prepared.golden.outputs.values())
    prepared.close()
    allowed = artifact.tolerance.atol
    return {
        "name": artifact.name,
        "golden": "passed",
        "problem": f"off by {worst:.2g} of {allowed:.2g} allowed, argmax {agree:.1%}",
        "largest": worst,
        "argmax": agree,
        "rows": prepared.golden.rows,
    }
