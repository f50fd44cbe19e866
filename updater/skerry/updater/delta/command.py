"""Make, apply or explain a patch between two files.

A patch turns one file into another. It knows tensors: two versions of an ONNX, TFLite, Core ML,
safetensors or NumPy file are compared weight by weight. Any other two files will do as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from skerry.devices.output import Output, human_bytes, table
from skerry.updater.delta.applying import apply
from skerry.updater.delta.creating import create
from skerry.updater.delta.patching import Checkpoint
from skerry.updater.delta.stat import DeltaStat, stat

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `skerry delta`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("create", help="write the patch from OLD to NEW")
    make.add_argument("old", type=Path, metavar="OLD", help="the file that is there")
    make.add_argument("new", type=Path, metavar="NEW", help="the file that should be there")
    make.add_argument("patch", type=Path, metavar="PATCH", help="where the patch goes")
    use = actions.add_parser("apply", help="make NEW from OLD and a patch")
    use.add_argument("old", type=Path, metavar="OLD", help="the file that is there; only read")
    use.add_argument("patch", type=Path, metavar="PATCH", help="the patch")
    use.add_argument("new", type=Path, metavar="NEW", help="where the result goes")
    use.add_argument(
        "--work",
        type=Path,
        metavar="NAME",
        help="keep what is made in NAME.* when interrupted, and go on from there the next time",
    )
    show = actions.add_parser("stat", help="say what a patch holds, tensor by tensor")
    show.add_argument("patch", type=Path, metavar="PATCH", help="the patch")
    show.add_argument(
        "--old", type=Path, metavar="OLD", help="its base: tells the tensors apart and names them"
    )


def run(args: argparse.Namespace, output: Output) -> int:
    """Do what `skerry delta` was asked. Returns the exit code."""
    if args.action == "create":
        with output.progress("comparing", _size(args.new)) as progress:
            made = create(args.old, args.new, args.patch, reached=progress.advance)
        share = f"{made.ratio:.1%} of {human_bytes(made.new_size)}"
        output.result(_document(made), f"{args.patch}: {human_bytes(made.patch_size)}, {share}")
    elif args.action == "apply":
        _apply(args, output)
        size = args.new.stat().st_size
        output.result({"new": str(args.new), "size": size}, f"{args.new}: {human_bytes(size)}")
    else:
        found = stat(args.patch, old=args.old)
        rows = [
            (
                part.name,
                part.method,
                part.new_bytes,
                part.bytes,
                part.entropy or "",
                f"{part.ratio:.3f}" if part.new_bytes else "",
            )
            for part in found.parts
        ]
        total = ("total", "", found.new_size, found.patch_size, "", f"{found.ratio:.3f}")
        head = ("part", "method", "new bytes", "patch bytes", "entropy", "ratio")
        text = table(head, [*rows, total])
        output.result(_document(found), text)
    return 0


def _apply(args: argparse.Namespace, output: Output) -> None:
    done = 0
    with output.progress("applying", stat(args.patch).new_size) as progress:

        def reached(checkpoint: Checkpoint) -> None:
            nonlocal done
            progress.advance(checkpoint.new_bytes - done)
            done = checkpoint.new_bytes

        apply(args.old, args.patch, args.new, work=args.work, reached=reached)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _document(found: DeltaStat) -> dict[str, object]:
    return {
        "patch_size": found.patch_size,
        "new_size": found.new_size,
        "old_size": found.old_size,
        "ratio": found.ratio,
        "parts": found.parts,
    }
