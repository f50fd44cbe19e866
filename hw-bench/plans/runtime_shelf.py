"""50 models with memory for 10: every one answers, hot ones stay, and memory does not grow.

    python hw-bench/plans/runtime_shelf.py [--calls 20000] [--out FILE]

Four threads draw models by a Zipf law. The same calls are counted for a shelf that closes what was
used longest ago, on paper.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from fakes.bundles import BIAS, linear, make_bundle  # noqa: E402
from skerry.bench.machine import read_machine, read_now  # noqa: E402
from skerry.runtime.room import Footprint  # noqa: E402
from skerry.runtime.shelf import Shelf, ShelfLimits  # noqa: E402

MODELS, ROOM, HOT = 50, 10, 5
X = np.ones((1, 4), np.float32)


def rss_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def oldest_first(draws):
    """Loads of a shelf that closes the least recently used."""
    here, loads = OrderedDict(), 0
    for model in draws:
        if model in here:
            here.move_to_end(model)
            continue
        loads += 1
        if len(here) == ROOM:
            here.popitem(last=False)
        here[model] = True
    return loads


def measure(folder, draws):
    for n in range(MODELS):
        make_bundle(folder / f"m{n:02d}", model=f"m{n:02d}", shift=float(n), golden_rows=2)
    unit = Footprint(per_byte=0.0, each_bytes=1 << 20)
    shelf = Shelf(folder, limits=ShelfLimits(bytes=ROOM << 20, footprint=unit))
    wrong, cold, warm, reloads, seen = [], [], [], Counter(), {}

    def ask(model):
        name = f"m{model:02d}"
        was = shelf.loaded(name)
        began = time.perf_counter()
        answer = shelf.answer(name, {"x": X})
        (cold if was is None else warm).append(time.perf_counter() - began)
        if not np.allclose(answer.outputs["y"], linear(X, BIAS + model), atol=1e-4):
            wrong.append(name)
        now = shelf.loaded(name)
        if now is not None and seen.get(model) is not now:
            seen[model] = now
            reloads[model] += 1

    for model in range(MODELS):  # every one answers, one after another
        ask(model)
    began_loads, memory = shelf.loads, []
    reloads.clear()
    with ThreadPoolExecutor(4) as pool:
        tenth = len(draws) // 10
        for start in range(0, len(draws), tenth):
            list(pool.map(ask, draws[start : start + tenth]))
            memory.append(round(rss_mib(), 1))
    most = max(len(shelf.names_loaded()), 0)
    loads = shelf.loads - began_loads
    shelf.close()
    milliseconds = 1e3 * np.array(cold), 1e3 * np.array(warm)
    return {
        "models": MODELS,
        "room for": ROOM,
        "calls": len(draws),
        "wrong or failed": len(wrong),
        "models that answered": len(seen),
        "loaded at the end": most,
        "loads": loads,
        "loads of the 5 hottest models": [reloads[n] for n in range(HOT)],
        "calls of the 5 hottest models": [int(c) for c in np.bincount(draws)[:HOT]],
        "loads if what was used longest ago made way": oldest_first(draws),
        "ms, loaded": {q: round(float(np.percentile(milliseconds[1], p)), 3) for q, p in QS},
        "ms, to be loaded": {q: round(float(np.percentile(milliseconds[0], p)), 3) for q, p in QS},
        "rss_mib in tenths": memory,
    }


QS = (("p50", 50), ("p99", 99))


def zipf(rng, count):
    weights = 1 / np.arange(1, MODELS + 1) ** 1.2
    return [int(n) for n in rng.choice(MODELS, count, p=weights / weights.sum())]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_shelf.json")
    args = parser.parse_args()
    before = read_now()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), zipf(rng, args.calls))
    turn = [n % (ROOM + 1) for n in range(5_500)]
    with tempfile.TemporaryDirectory() as folder:
        in_turn = measure(Path(folder), turn)
    result = {
        "what": "more models than memory holds, in process",
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "zipf, exponent 1.2": found,
        "11 models in turn": in_turn,
        "after": msgspec.to_builtins(read_now()),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
