"""Every fault injected while three threads call: what they saw, and how soon service was back.

    python hw-bench/plans/runtime_faults.py [--out hw-bench/results/runtime_faults.json]

Each caller gives each call 5 s. The active release and the one before it run in processes of their
own. Mounting the small disk needs root; without it that scenario says so.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from fakes import faults  # noqa: E402
from skerry.bench.machine import read_machine, read_now  # noqa: E402


def jumping(folder):
    """The clock's scenario, with the wall clock as this process sees it moved."""
    real, real_ns, offset = time.time, time.time_ns, [0.0]

    def jump(seconds):
        offset[0] += seconds

    time.time = lambda: real() + offset[0]
    time.time_ns = lambda: real_ns() + int(offset[0] * 1e9)
    try:
        return faults.clock_jump(folder, jump)
    finally:
        time.time, time.time_ns = real, real_ns


def filled(folder):
    with faults.small_disk(folder / "small", 512 << 10) as small:
        return faults.full_disk(folder, small)


SCENARIOS = {
    "engine segfault": faults.segfault,
    "engine hang": faults.hang,
    "corrupt blob, then the engine dies": faults.corrupt_blob,
    "out of memory in the engine process": faults.out_of_memory,
    "clock jump": jumping,
    "disk full": filled,
}


def told(seen):
    return {
        "outcomes": dict(seen.outcomes),
        "wrong or untyped": seen.wrong,
        "longest call, s": round(seen.longest_s, 3),
        "late calls": int(seen.longest_s > faults.DEADLINE_S),
        "back after, s": round(seen.back_s, 3),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_faults.json")
    args = parser.parse_args()
    before, found = read_now(), {}
    for name, scenario in SCENARIOS.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "w").mkdir()
            try:
                found[name] = told(scenario(Path(folder) / "w"))
            except PermissionError as error:
                found[name] = {"not run": str(error)}
        print(name, json.dumps(found[name]), flush=True)
    result = {
        "what": "faults under load in process; calls by what answered them, or by error",
        "machine": msgspec.to_builtins(read_machine()),
        "deadline_s": faults.DEADLINE_S,
        "before": msgspec.to_builtins(before),
        "faults": found,
        "after": msgspec.to_builtins(read_now()),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(one.get("wrong or untyped") or one.get("late calls") for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
