"""Show what a bundle holds: signature, artifacts with what the build measured, documents.

Examples:
    skerry inspect out/bundle
    skerry inspect out/bundle --document report.html > report.html
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from skerry.devices.output import Output, human_bytes, table
from skerry.runtime.bundle.card import Card, TensorSpec
from skerry.runtime.bundle.reader import Bundle

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the folder of a bundle")
    parser.add_argument("--document", metavar="NAME", help="write one document to stdout instead")


def run(args: Namespace, output: Output) -> int:
    bundle = Bundle.open(args.bundle)
    if args.document is not None:
        sys.stdout.buffer.write(bundle.document(args.document))
        return 0
    card = bundle.card
    document = {
        "manifest": str(bundle.manifest.digest),
        "bytes": sum(blob.size for blob in bundle.descriptors()),
        "card": msgspec.to_builtins(card),
    }
    output.result(document, _text(bundle, card))
    return 0


def _text(bundle: Bundle, card: Card) -> str:
    names = sorted({name for artifact in card.artifacts for name in artifact.metrics})
    rows = [
        [
            artifact.name,
            human_bytes(artifact.blob.size),
            artifact.blob.descriptor().digest.short,
            *(f"{artifact.metrics[n]:g}" if n in artifact.metrics else "" for n in names),
        ]
        for artifact in card.artifacts
    ]
    parts = [
        f"{card.model} {card.version}",
        f"manifest  {bundle.manifest.digest}",
        *(f"input     {_tensor(spec)}" for spec in card.inputs),
        *(f"output    {_tensor(spec)}" for spec in card.outputs),
    ]
    if card.labels:
        parts.append(f"labels    {', '.join(card.labels[:12])}{' …' * (len(card.labels) > 12)}")
    parts.append(f"reference {'yes' if card.reference else 'none: drift cannot be judged'}")
    for name, ref in sorted(card.documents.items()):
        parts.append(f"document  {name}, {human_bytes(ref.size)}")
    return "\n".join([*parts, "", table(["artifact", "size", "sha256", *names], rows)])


def _tensor(spec: TensorSpec) -> str:
    shape = ", ".join("n" if length == -1 else str(length) for length in spec.shape)
    return f"{spec.name} {spec.dtype} [{shape}]"
