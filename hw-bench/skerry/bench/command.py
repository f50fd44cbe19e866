"""Measure how fast a bundle's artifacts answer on this machine.

The plan is single-stream: one query after the other, as in MLPerf LoadGen's scenario of that name.
The artifacts take turns query by query, so that whatever else the machine does falls on all alike;
ratios are medians of neighbouring pairs. The answers of the run are checked against the bundle's
golden samples. Percentiles and ratios come with their 95% confidence bounds.

    skerry bench out/bundle
    skerry bench out/bundle --artifact onnx-fp32 --artifact onnx-int8 --seconds 20 --out result.json
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from skerry.bench.single_stream import Measured, Plan, Result, measure
from skerry.bench.subjects import open_subjects
from skerry.devices.errors import ExitCode, InputError
from skerry.devices.files import write_atomically
from skerry.devices.output import Output, table
from skerry.runtime.bundle.reader import Bundle

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    """The arguments of `skerry bench`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder with an OCI layout")
    parser.add_argument(
        "--artifact",
        action="append",
        default=[],
        metavar="NAME",
        help="measure this one; may repeat, and the first is what ratios are taken against "
        "(default: every artifact that runs here)",
    )
    parser.add_argument("--plan", choices=["single-stream"], default="single-stream")
    parser.add_argument("--seconds", type=float, default=5.0, help="least duration (default 5)")
    parser.add_argument("--queries", type=int, default=256, help="least queries each (default 256)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one call (default 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON result here")


def run(args: Namespace, output: Output) -> int:
    """Measure and report."""
    if not (0 < args.seconds <= 86_400 and args.queries >= 1 and args.threads >= 1):
        raise InputError("needs seconds up to a day, and at least one query and one thread")
    bundle = Bundle.open(args.bundle)
    subjects = open_subjects(bundle, args.artifact, args.threads)
    plan = Plan(seconds=args.seconds, queries=args.queries)
    with output.progress("measuring", 1000) as progress:
        shown = 0

        def advance(seconds: float) -> None:
            nonlocal shown
            reached = min(1000, int(1000 * seconds / plan.seconds))
            progress.advance(reached - shown, f"{seconds:.0f} s")
            shown = reached

        result = measure(subjects, plan, advance)
    if args.out:
        write_atomically(args.out, msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    output.result(result, _text(result))
    return ExitCode.OK


def _text(result: Result) -> str:
    head = ["artifact", "bytes", "p50 ms", "95% bounds", "p99 ms", "95% bounds", "ratio to first"]
    machine = result.machine
    return (
        f"{table(head, [_row(subject) for subject in result.subjects])}\n\n"
        f"{machine.cpu}, {machine.cores} cores, {machine.system}; "
        f"load {result.before.load_1min:.1f} before, {result.after.load_1min:.1f} after; "
        "outputs checked against golden"
    )


def _row(subject: Measured) -> list[str]:
    p50, p99 = subject.latency_ms["p50"], subject.latency_ms["p99"]
    ratio = subject.ratio
    return [
        subject.name,
        f"{subject.bytes:,}",
        f"{p50.value:.4f}",
        f"{p50.low:.4f}–{p50.high:.4f}",
        f"{p99.value:.4f}",
        f"{p99.low:.4f}–{p99.high:.4f}",
        f"{ratio.value:.3f} ({ratio.low:.3f}–{ratio.high:.3f})" if ratio else "",
    ]
