"""How small a delta is, against every general tool that is here, on pairs made from real models.

    python hw-bench/plans/delta_sizes.py [--files DIR] [--depths 20 56] [--retrained WEIGHTS]

Needs the converter extra, and SKERRY_DATA (default ../shared/data). Peers: bsdiff4, the zstd and
xdelta3 programs, and detools and hdiffpatch by the Python named in SKERRY_PEERS (default: this
one). What is missing is named in the results.

The bound counts every tensor that both files hold, matched as `create` matches them: the order-0
entropy of its residuals, new less old, as one histogram for int8, else one for each byte of the
folded difference of the bit patterns. It counts neither structure nor names: those must fit into
the 1 KiB. A histogram of n values shows at most log2 n bits a value, which is less than any code
can make of a tensor of 16 scales; the pooled figure takes all tensors of a type that have less than
1024 elements as one. Both are in the results, and both bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _result import write_result
from delta_pairs import Pair, make_pairs

from skerry.bench.machine import read_now
from skerry.updater.delta import apply, create
from skerry.updater.delta.formats import find_tensors
from skerry.updater.delta.geometry import Element
from skerry.updater.delta.matching import match

_RESULT = Path(__file__).parent.parent / "results" / "delta_sizes.json"
_CEILINGS = {"light": 0.85, "moderate": 0.93, "hard": 0.80, "retrained": 0.80}
_FP32_CEILING = 0.75
_SMALL = 1024
_PYTHON_PEERS = {
    "detools": "import io, detools; out = io.BytesIO(); "
    "detools.create_patch(io.BytesIO(old), io.BytesIO(new), out); size = len(out.getvalue())",
    "hdiffpatch": "import hdiffpatch as h; size = min(len(h.diff(old, new, c)) for c in "
    "(h.COMPRESSION_ZSTD, h.COMPRESSION_LZMA2, h.COMPRESSION_BZIP2))",
    "bsdiff4": "import bsdiff4; size = len(bsdiff4.diff(old, new))",
}


def entropy_bytes(pair: Pair) -> tuple[float, float]:
    """The summed order-0 entropy of the residuals of every matched tensor, in bytes.

    Returns:
        Of each tensor by itself, and with the small ones pooled.
    """
    old, new = (memoryview(path.read_bytes()) for path in (pair.old, pair.new))
    alone = pooled = 0.0
    small: dict[Element, list[np.ndarray]] = {}
    tensors = find_tensors(old, pair.old), find_tensors(new, pair.new)
    for found in match(*tensors, old, new):
        geometry, at = found.geometry, found.new.offset
        element, length = geometry.element, geometry.length
        was = element.ordered(geometry.canonical(old[found.base : found.base + length]))
        now = element.ordered(geometry.canonical(new[at : at + length], new=True))
        values = element.differences(now, was).ravel().astype(np.int64)
        bits = _entropy(values, element)
        alone += bits
        if len(values) < _SMALL:
            small.setdefault(element, []).append(values)
        else:
            pooled += bits
    pooled += sum(_entropy(np.concatenate(some), element) for element, some in small.items())
    return alone / 8, pooled / 8


def _entropy(values: np.ndarray, element: Element) -> float:
    """Bits of these residuals by one histogram, or by one for each of their bytes."""
    if element is Element.INT8:
        planes = [values]
    else:
        folded = np.where(values < 0, -2 * values - 1, 2 * values)
        planes = [folded >> 8 * plane & 255 for plane in range(element.bytes)]
    histograms = (np.unique(plane, return_counts=True)[1] for plane in planes)
    return sum(float(-(n * np.log2(n / n.sum())).sum()) for n in histograms)


def peer_sizes(pair: Pair, scratch: Path) -> dict[str, int]:
    """The bytes of each peer's patch, for the peers that are here."""
    out, sizes = scratch / "peer", {}
    if shutil.which("zstd"):
        commands = {
            "full zstd -19": ["zstd", "-19", "-q", "-f", str(pair.new), "-o", str(out)],
            "zstd -19 --patch-from": [
                *("zstd", "-19", "-q", "-f", f"--patch-from={pair.old}"),
                *(str(pair.new), "-o", str(out)),
            ],
        }
        for name, command in commands.items():
            if subprocess.run(command, capture_output=True).returncode:
                continue  # zstd 1.5.4 aborts on an empty file with --patch-from
            sizes[name] = out.stat().st_size
    if shutil.which("xdelta3"):
        command = ["xdelta3", "-9", "-f", "-e", "-s", str(pair.old), str(pair.new), str(out)]
        subprocess.run(command, check=True)
        sizes["xdelta3 -9"] = out.stat().st_size
    python = os.environ.get("SKERRY_PEERS", sys.executable)
    for name, code in _PYTHON_PEERS.items():
        script = (
            "import sys; old, new = (open(p, 'rb').read() for p in sys.argv[1:]); "
            f"{code}; print(size)"
        )
        command = [python, "-c", script, str(pair.old), str(pair.new)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            sizes[name] = int(done.stdout)
    return sizes


def measured(pair: Pair, scratch: Path) -> dict[str, object]:
    """One pair's row of the results."""
    patch, made = scratch / "patch", scratch / "made"
    start = time.perf_counter()
    ours = create(pair.old, pair.new, patch)
    created = time.perf_counter()
    apply(pair.old, patch, made)
    applied = time.perf_counter()
    assert made.read_bytes() == pair.new.read_bytes()
    peers, (alone, pooled) = peer_sizes(pair, scratch), entropy_bytes(pair)
    best = min(peers, key=lambda name: peers[name])
    _, kind, variant = pair.name.split("/")
    ceiling = _CEILINGS.get(kind, 1.0) if "int8" in variant else 1.0
    if "fp32" in variant and kind != "head":
        ceiling = _FP32_CEILING
    return {
        "pair": pair.name,
        "new_bytes": ours.new_size,
        "delta_bytes": ours.patch_size,
        "peers": peers,
        "best_peer": best,
        "of_best_peer": round(ours.patch_size / peers[best], 4),
        "ceiling": ceiling,
        "within_ceiling": ours.patch_size <= ceiling * peers[best],
        "order_0_entropy_bytes": round(alone),
        "within_entropy_bound": ours.patch_size <= 1.03 * alone + 1024,
        "pooled_entropy_bytes": round(pooled),
        "within_pooled_bound": ours.patch_size <= 1.03 * pooled + 1024,
        "create_s": round(created - start, 3),
        "apply_s": round(applied - created, 3),
    }


def main() -> None:
    """Make the pairs, measure each, and write the results as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=Path, help="keep the model files here")
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 56])
    parser.add_argument("--retrained", type=Path, help="weights of a ResNet56, trained on")
    parser.add_argument("--out", type=Path, default=_RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch, before, rows = Path(folder), read_now(), []
        files, depths = args.files or scratch / "files", tuple(args.depths)
        for pair in make_pairs(files, depths, retrained=args.retrained):
            rows.append(measured(pair, scratch))
            print(json.dumps(rows[-1]), flush=True)
        tools = {name for row in rows for name in row["peers"]}
        expected = {"full zstd -19", "zstd -19 --patch-from", "xdelta3 -9", *_PYTHON_PEERS}
        write_result(args.out, {"peers_missing": sorted(expected - tools), "rows": rows}, before)


if __name__ == "__main__":
    main()
