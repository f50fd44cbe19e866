"""Swaps under load, and memory: nothing lost, nothing mislabelled, nothing that only grows.

python hw-bench/plans/runtime_swaps.py [--swaps 1000] [--requests 100000] [--out FILE]
"""

import argparse
import gc
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from fakes.bundles import BIAS, linear, make_bundle  # noqa: E402
from skerry.bench.machine import read_machine, read_now  # noqa: E402
from skerry.runtime.bundle.reader import Bundle  # noqa: E402
from skerry.runtime.prepare import RuntimeOptions  # noqa: E402
from skerry.runtime.room import Footprint, SwapLimits  # noqa: E402
from skerry.runtime.runtime import Runtime  # noqa: E402

ONE_ALONE = SwapLimits(bytes=100, footprint=Footprint(per_byte=0.0, each_bytes=100))
X = np.random.default_rng(1).normal(size=(1, 4)).astype(np.float32)


def rss_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def swaps(bundles, count, memory):
    """Swap between two releases while two threads call. Failures, answers and memory.

    Args:
        memory: what the releases may take; with room for one, calls wait while it is swapped.
    """
    runtime = Runtime(RuntimeOptions(memory=memory))
    runtime.activate(runtime.prepare(bundles[0]))
    over, lock = threading.Event(), threading.Lock()
    told = {"answered": 0, "failed": 0, "mislabelled": 0}
    expected = {str(n): linear(X, BIAS + n) for n in (0, 1)}

    def call():
        answered = failed = mislabelled = 0
        while not over.is_set():
            try:
                outputs, release, _ = runtime.answer({"x": X})
            except Exception:  # noqa: BLE001 - counted
                failed += 1
                continue
            answered += 1
            if not np.allclose(outputs["y"], expected[release.card.version], atol=1e-5):
                mislabelled += 1
        with lock:
            told["answered"] += answered
            told["failed"] += failed
            told["mislabelled"] += mislabelled

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    resident, took = [], []
    for swap in range(count):
        began = time.perf_counter()
        runtime.activate(runtime.prepare(bundles[(swap + 1) % 2]))
        took.append(time.perf_counter() - began)
        if swap % 20 == 19:
            resident.append(rss_mib())
    over.set()
    for thread in threads:
        thread.join()
    runtime.close()
    half = resident[len(resident) // 2 :]
    return {
        "swaps": count,
        **told,
        "rss_mib, last half": {"least": round(min(half), 2), "most": round(max(half), 2)},
        "spread over the last half": round(max(half) / min(half) - 1, 4),
        "growth over the last half": round((half[-1] - half[0]) / half[0], 4),
        "ms a swap, p50": round(1e3 * float(np.median(took)), 2),
    }


def shapes(bundle, count):
    """Requests of random batch lengths. Memory in tenths of the way."""
    runtime = Runtime.open(bundle)
    rng = np.random.default_rng(0)
    memory = []
    for index in range(count):
        rows = int(rng.integers(1, 512))
        runtime.predict({"x": np.ones((rows, 4), np.float32)})
        if index % (count // 10) == count // 10 - 1:
            gc.collect()
            memory.append(round(rss_mib(), 2))
    runtime.close()
    half = memory[len(memory) // 2 :]
    spread = round(max(half) / min(half) - 1, 4)
    return {"requests": count, "rss_mib": memory, "spread over the last half": spread}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_swaps.json")
    args = parser.parse_args()
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundles = [
            Bundle.open(make_bundle(work / str(n), version=str(n), shift=float(n))) for n in (0, 1)
        ]
        result = {
            "what": "swaps under load in process, and memory over requests of random shapes",
            "machine": msgspec.to_builtins(read_machine()),
            "before": msgspec.to_builtins(before),
            "swaps": swaps(bundles, args.swaps, SwapLimits()),
            "swaps where memory holds one release": swaps(bundles, args.swaps, ONE_ALONE),
            "shapes": shapes(work / "0", args.requests),
            "after": msgspec.to_builtins(read_now()),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
