"""Put the README's table of measurements together from the files in hw-bench/results/.

python hw-bench/headlines.py     write it into README.md; `make bench` does it at its end
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, README = ROOT / "hw-bench" / "results", ROOT / "README.md"
BEGIN, END = "<!-- measured: by hw-bench/headlines.py -->\n", "<!-- end of measured -->"


def quantized(found: Any) -> str:
    tops = found["artifacts"]
    three = ", ".join(
        f"{tops[f'{form}-int8']['top1']:.2f}" for form in ("onnx", "tflite", "coreml")
    )
    checks = {name: check["value"] for name, check in found["checks"].items()}
    return (
        f"{three} points in ONNX, TFLite and Core ML, fp32 {tops['onnx-fp32']['top1']:.2f},"
        f" ONNX Runtime's `quantize_static` {tops['onnx-quantize_static']['top1']:.2f};"
        f" ONNX {checks['onnx bytes / fp32']:.2f} of the bytes"
        f" and {checks['onnx latency / fp32']:.2f} of the latency,"
        f" TFLite {checks['tflite latency / fp32']:.2f};"
        f" all three made in {checks['conversion, seconds']:.0f} s"
    )


def shrunk(found: Any) -> str:
    parts = []
    for name, student in found["students"].items():
        baselines = {one["format"]: one for one in student["source"]["baselines"]}
        smaller = [baselines["onnx"]["bytes"] / one["bytes"] for one in student["artifacts"]]
        drops = [one["metric_drop"] for one in student["artifacts"]]
        faster = [
            baselines["onnx"]["latency_ms"]["p50"] / one["latency_ms"]["p50"]
            for one in student["artifacts"]
            if one["latency_ms"] is not None
        ]
        parts.append(
            f"{name.partition('-')[0]}: at least {_at_least(smaller)} times smaller and"
            f" {_at_least(faster)} times faster, at most"
            f" {max(drops):+.2f} points lost"
        )
    teacher = next(iter(found["students"].values()))["source"]["metric"]
    return f"teacher {teacher:.2f} points; " + "; ".join(parts)


def _at_least(values: list[float]) -> float:
    """The smallest, rounded down, so that none of them is below it."""
    return math.floor(min(values) * 10) / 10


def stepped(found: Any) -> str:
    each = [
        f"{row} {one['mean']:.2f} ± {one['deviation']:.2f}"
        f" in {statistics.mean(one['bytes']) / 1e3:.0f} kB"
        for row, one in found["rows"].items()
    ]
    return f"{found['what']}, {len(found['seeds'])} seeds: {'; '.join(each)}"


def searched(found: Any) -> str:
    written, better = found["hand_written"]["merit"], found["found"]["merit"]
    again = found["killed_and_resumed"]
    return (
        f"{found['unbroken']['trials']} trials: {better['bytes'] / 1e3:.1f} kB at"
        f" {better['metric']:.2f} points, the hand-written recipe"
        f" {written['bytes'] / 1e3:.1f} kB at {written['metric']:.2f}; killed and resumed, the"
        f" same front: {'yes' if again['front'] == again['front_unbroken'] else 'no'}"
    )


def served(found: Any) -> str:
    ratios = {
        name.removeprefix("requests/s over "): check["found"]
        for name, check in found["checks"].items()
        if name.startswith("requests/s over ")
    }
    asleep = found["requests/s where the client sleeps until its answer comes, over"]
    each = [
        f"{name} {one['1']:.1f}, {one['8']:.1f} ({asleep[name]:.1f})"
        for name, one in ratios.items()
    ]
    return (
        "requests/s, times those of the peer, with 1 connection, with 8 (and with 1 whose client"
        f" sleeps until its answer comes): {'; '.join(each)}"
    )


def called(found: Any) -> str:
    over = found["overhead, 4 floats"]["overhead"]
    return f"{over['p50']:.1f} µs at the median, {over['p99']:.0f} µs at p99"


def started(found: Any) -> str:
    checks = {name: check["found"] for name, check in found["checks"].items()}
    return (
        f"listening after {checks['ready, s']:.2f} s,"
        f" {checks['private MiB beyond the engine']:.0f} MiB"
        f" and {checks['packages beyond the engine']} packages beyond the engine"
    )


def updated(found: Any) -> str:
    parts = []
    for kind in ("int8", "fp16", "fp32"):
        ratios = [row["of_best_peer"] for row in found["rows"] if kind in row["pair"]]
        parts.append(
            f"{kind} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    pairs = f"median (range) of {len(found['rows'])} pairs"
    return f"bytes of the smallest of six peers, {pairs}: {', '.join(parts)}"


def paid(found: Any) -> str:
    large = max(found["rows"], key=lambda row: row["bytes"])
    small = [row for row in found["rows"] if row is not large]
    each = [
        f"{row['kind']} {row['create']['mb_per_s']:.0f} and {row['apply']['mb_per_s']:.0f}"
        for row in small
    ]
    int8 = next(row for row in small if row["kind"] == "int8")
    ratio = found["bsdiff4"]["seconds"] / int8["create"]["seconds"]
    return (
        f"MB/s made and applied: {', '.join(each)}; {large['bytes'] / 1e9:.0f} GB applied in"
        f" {large['apply']['peak_mib']:.0f} MiB; made {ratio:.0f} times as fast as by bsdiff4"
    )


def survived(found: Any) -> str:
    lived = sum(row["survived"] for row in found["rows"])
    return f"{found['cuts']:,} power cuts, one at every operation on the disk: {lived:,} survived"


ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("ResNet56, int8 after training", "resnet56_int8", quantized),
    ("ResNet56, pruned, distilled and int8", "cifar_shrink", shrunk),
    ("What each step of shrinking gains", "cifar_ablation", stepped),
    ("`skerry search` on the digits", "search", searched),
    ("`predict` over the engine's own call", "runtime_inprocess", called),
    ("`skerry run`, a small model", "runtime_start", started),
    ("REST, 4 floats as JSON", "runtime_rest", served),
    ("Delta updates of models", "delta_sizes", updated),
    ("What a delta costs", "delta_cost", paid),
    ("An update on a device", "power_cut", survived),
)


def table() -> str:
    """The rows whose results are there, as Markdown."""
    lines = ["| what | measured | file |", "|---|---|---|"]
    for what, file, text in ROWS:
        path = RESULTS / f"{file}.json"
        if path.is_file():
            measured = text(json.loads(path.read_bytes()))
            lines.append(f"| {what} | {measured} | [{file}.json](hw-bench/results/{file}.json) |")
    return "\n".join(lines) + "\n"


def main() -> None:
    before, begin, rest = README.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{README.name} has no place for it")
    README.write_text(before + begin + table() + end + after)


if __name__ == "__main__":
    main()
