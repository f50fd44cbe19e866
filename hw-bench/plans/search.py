"""A search on scikit-learn's digits: what it finds in 25 trials, killed and resumed, and refused.

Around the hand-written recipe of examples/digits. Three runs of the real command: one unbroken; one
of ten trials, in two waves, its process killed by SIGKILL in the middle of the first and begun
again, held against the first ten trials of the unbroken one; and one with budgets that nobody
meets. Points are those of the rows that candidates are chosen by; those on the rows that played no
part in it stand beside, as do medians by the clock of the hand-written and the found file, called
in turn. With --work a folder is kept, and a plan that was stopped goes on; --seconds stops it by
itself with exit code 5, to be called again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn.datasets import load_digits

from skerry.bench.machine import read_machine, read_now
from skerry.converter.search.budget import Merit
from skerry.converter.search.front import dominates, front
from skerry.runtime.engine.select import open_engine

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "examples/digits/search.toml"
# Whole waves: a wave that is cut short lets others of its trials go on.
TRIALS, KILLED_TRIALS, KILL_AFTER_LINES = 25, 10, 3
_POLL_SECONDS = 0.05
_CALLS, _ROUNDS = 100, 30
_UNFINISHED = 5


class Stopped(Exception):
    """The time that this call of the plan has is over."""


class Clock:
    """How long this call of the plan may take, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left.

        Raises:
            Stopped: none are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise Stopped
        return left


def command(weights: Path, out: Path, trials: int, jobs: int, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "skerry.cli.main", "search", str(RECIPE), "--json"),
        *("--set", f"source.weights={weights}", "--out", str(out), "--trials", str(trials)),
        *("--jobs", str(jobs), *words),
    ]


BUDGETS = ("--budget", "size=25kB", "--budget", "accuracy=-0.5")


def run(words: list[str], clock: Clock) -> tuple[int, dict[str, Any]]:
    """Exit code and `search.json` of a search.

    Raises:
        Stopped: it did not come to its end in time; it was told to stop.
    """
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        said, _ = process.communicate(timeout=clock.left())
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate()
        raise Stopped from None
    return process.returncode, json.loads(said)


def kill_midway(words: list[str], journal: Path, clock: Clock) -> int:
    """Begin the search, kill it once the journal has enough lines; how many it had then."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            clock.left()
            lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
            if lines > KILL_AFTER_LINES:
                os.kill(process.pid, signal.SIGKILL)
                return lines
            time.sleep(_POLL_SECONDS)
    finally:
        process.kill()
        process.wait()
    raise RuntimeError(f"the search ended by itself with exit code {process.returncode}")


def finished(result: dict[str, Any], below: int) -> dict[int, Merit]:
    return {
        one["trial"]: msgspec.convert(one["merit"], Merit)
        for one in result["candidates"]
        if one["finished"] and one["trial"] < below
    }


def against_hand_written(result: dict[str, Any]) -> dict[str, Any]:
    """The hand-written recipe, and those of the front that dominate or equal it."""
    merits = finished(result, TRIALS)
    own = merits.pop(0)
    better = sorted(number for number, merit in merits.items() if dominates(merit, own))
    equal = sorted(
        number
        for number, one in merits.items()
        if (one.bytes, one.latency_ms, one.metric) == (own.bytes, own.latency_ms, own.metric)
    )
    return {"merit": msgspec.to_builtins(own), "dominated_by": better, "equalled_by": equal}


def beside(result: dict[str, Any], numbers: list[int], folder: Path) -> dict[str, Any]:
    """The hand-written recipe and the fastest of those, by rows and clock that chose nothing."""
    by_number = {one["trial"]: one for one in result["candidates"]}
    found = min(numbers, key=lambda number: by_number[number]["merit"]["latency_ms"])
    files = [next((folder / f"candidates/{n:04d}").glob("*.onnx")) for n in (0, found)]
    engines = [open_engine("onnx", file) for file in files]
    row = {"image": load_digits().images[:1, :, :, None].astype(np.uint8)}
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(_ROUNDS):
        for which in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            for _ in range(_CALLS):
                engines[which].run(row)
            took[which].append(1e6 * (time.perf_counter() - began) / _CALLS)
    for engine in engines:
        engine.close()
    written, other = (round(statistics.median(one), 3) for one in took)
    return {
        "trial": found,
        "merit": by_number[found]["merit"],
        "on_unseen_rows": {
            "hand_written": by_number[0]["unseen"],
            "found": by_number[found]["unseen"],
        },
        "median_us_by_the_clock": {"hand_written": written, "found": other},
        "faster_by_the_clock": round(written / other, 3),
    }


def unbroken(
    weights: Path, work: Path, jobs: int, clock: Clock
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole search: its `search.json`, and what is written down of it."""
    code, result = run(command(weights, work / "whole", TRIALS, jobs, *BUDGETS), clock)
    return result, {
        "exit_code": code,
        "seconds_of_all_trials": round(sum(one["seconds"] for one in result["candidates"]), 1),
        "trials": len(result["candidates"]),
        "in_full": sum(one["finished"] for one in result["candidates"]),
        **{key: result[key] for key in ("budgets", "best", "passed", "binding", "front")},
        "candidates": [
            {key: one[key] for key in ("trial", "values", "merit", "unseen", "finished", "seconds")}
            | {"measured_ratio": one["measured_ratio"]}
            for one in result["candidates"]
        ],
    }


def killed(
    weights: Path, work: Path, jobs: int, whole: dict[str, Any], clock: Clock
) -> dict[str, Any]:
    """A search killed and begun again, against the first trials of the whole one."""
    words = command(weights, work / "broken", KILLED_TRIALS, jobs, *BUDGETS)
    noted = work / "killed.json"
    if not noted.exists():
        lines = kill_midway(words, work / "broken/journal.jsonl", clock)
        noted.write_text(json.dumps(lines))
    lines = json.loads(noted.read_text())
    code, again = run(words, clock)
    first, resumed = finished(whole, KILLED_TRIALS), finished(again, KILLED_TRIALS)
    return {
        "trials": KILLED_TRIALS,
        "journal_lines_at_the_kill": lines,
        "exit_code": code,
        "front": list(front(resumed)),
        "front_unbroken": list(front(first)),
        "same_merits": resumed == first,
    }


def unmet(weights: Path, work: Path, clock: Clock) -> dict[str, Any]:
    """A search under budgets that nobody meets."""
    tight = ("--budget", "size=2kB", "--budget", "accuracy=99.9")
    code, result = run(command(weights, work / "none", 1, 1, *tight), clock)
    shown = ("budgets", "best", "passed", "binding", "unmet")
    return {"exit_code": code, **{key: result[key] for key in shown}}


def measure(
    args: argparse.Namespace, work: Path, clock: Clock
) -> tuple[dict[str, Any], dict[str, bool]]:
    """All runs, and what must hold of them."""
    checks: dict[str, bool] = {}
    weights = work / "teacher.safetensors"
    if not weights.exists():
        train = [sys.executable, str(ROOT / "examples/digits/train.py"), "--out", str(work)]
        subprocess.run(train, stdout=subprocess.DEVNULL, check=True)
    result, shown = unbroken(weights, work, args.jobs, clock)
    runs: dict[str, Any] = {"teacher": _teacher(result), "unbroken": shown}
    compared = runs["hand_written"] = against_hand_written(result)
    as_good = compared["dominated_by"] or compared["equalled_by"]
    checks["dominates or equals the hand-written recipe within 25 trials"] = bool(as_good)
    if as_good:
        runs["found"] = beside(result, as_good, work / "whole")
    if "killed" not in args.leave_out:
        found = runs["killed_and_resumed"] = killed(weights, work, args.jobs, result, clock)
        checks["killed and resumed gives what the unbroken run does"] = found["same_merits"]
    if "unmet" not in args.leave_out:
        found = runs["unmet"] = unmet(weights, work, clock)
        checks["budgets that nobody meets: best so far, exit code 3"] = found["exit_code"] == 3
    return runs, checks


def _teacher(result: dict[str, Any]) -> float:
    written = result["candidates"][0]["merit"]
    return round(written["metric"] + written["drop"], 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/search.json")
    parser.add_argument("--work", type=Path, help="a folder to keep; by default a temporary one")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after; needs --work")
    parser.add_argument(
        "--leave-out", nargs="*", default=[], choices=("killed", "unmet"), help="runs not to make"
    )
    args = parser.parse_args()
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        try:
            runs, checks = measure(args, work, Clock(args.seconds))
        except Stopped:
            print(f"stopped after {args.seconds:g} s; the same command goes on", file=sys.stderr)
            return _UNFINISHED
    document = {
        "command": "python hw-bench/plans/search.py",
        "left_out": args.leave_out,
        "data": "scikit-learn digits, 1,347 scans to train on, each twice; 450 held out, half of "
        "them to choose by",
        "seed": 0,
        "jobs": args.jobs,
        **runs,
        "checks": checks,
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(read_now()),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(checks, indent=2))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
