"""A search on scikit-learn's digits: what it finds in 25 trials, killed and resumed, and refused.

Around the hand-written recipe of examples/digits. Three runs of the real command: one unbroken; one
of six trials, in two waves, its process killed by SIGKILL in the middle of the first and begun
again, held against the first six trials of the unbroken one; and one with budgets that nobody
meets. With --work a folder is kept, and a plan that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from skerry.bench.machine import read_machine, read_now
from skerry.converter.search.budget import Merit
from skerry.converter.search.front import dominates, front

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "examples/digits/search.toml"
TRIALS, KILLED_TRIALS, KILL_AFTER_LINES = 25, 6, 3
_POLL_SECONDS = 0.05


def command(weights: Path, out: Path, trials: int, jobs: int, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "skerry.cli.main", "search", str(RECIPE), "--json"),
        *("--set", f"source.weights={weights}", "--out", str(out), "--trials", str(trials)),
        *("--jobs", str(jobs), *words),
    ]


BUDGETS = ("--budget", "size=25kB", "--budget", "accuracy=-0.5")


def run(words: list[str]) -> tuple[int, dict[str, Any], float]:
    began = time.monotonic()
    done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    return done.returncode, json.loads(done.stdout), round(time.monotonic() - began, 1)


def kill_midway(words: list[str], journal: Path) -> int:
    """Begin the search, kill it once the journal has enough lines; how many it had then."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
        if lines > KILL_AFTER_LINES:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return lines
        time.sleep(_POLL_SECONDS)
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


def unbroken(weights: Path, work: Path, jobs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole search: its `search.json`, and what is written down of it."""
    code, result, _ = run(command(weights, work / "whole", TRIALS, jobs, *BUDGETS))
    return result, {
        "exit_code": code,
        "seconds_of_all_trials": round(sum(one["seconds"] for one in result["candidates"]), 1),
        "trials": len(result["candidates"]),
        "in_full": sum(one["finished"] for one in result["candidates"]),
        **{key: result[key] for key in ("budgets", "best", "passed", "binding", "front")},
        "candidates": [
            {key: one[key] for key in ("trial", "values", "merit", "finished", "seconds")}
            | {"measured_ratio": one["measured_ratio"]}
            for one in result["candidates"]
        ],
    }


def killed(weights: Path, work: Path, jobs: int, whole: dict[str, Any]) -> dict[str, Any]:
    """A search killed and begun again, against the first trials of the whole one."""
    words = command(weights, work / "broken", KILLED_TRIALS, jobs, *BUDGETS)
    lines = kill_midway(words, work / "broken/journal.jsonl")
    code, again, seconds = run(words)
    first, resumed = finished(whole, KILLED_TRIALS), finished(again, KILLED_TRIALS)
    return {
        "trials": KILLED_TRIALS,
        "journal_lines_at_the_kill": lines,
        "exit_code": code,
        "seconds_after_the_kill": seconds,
        "front": list(front(resumed)),
        "front_unbroken": list(front(first)),
        "same_merits": resumed == first,
    }


def unmet(weights: Path, work: Path) -> dict[str, Any]:
    """A search under budgets that nobody meets."""
    tight = ("--budget", "size=2kB", "--budget", "accuracy=99.9")
    code, result, _ = run(command(weights, work / "none", 1, 1, *tight))
    shown = ("budgets", "best", "passed", "binding", "unmet")
    return {"exit_code": code, **{key: result[key] for key in shown}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/search.json")
    parser.add_argument("--work", type=Path, help="a folder to keep; by default a temporary one")
    parser.add_argument(
        "--leave-out", nargs="*", default=[], choices=("killed", "unmet"), help="runs not to make"
    )
    args = parser.parse_args()
    before = read_now()
    checks: dict[str, bool] = {}
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        weights = work / "teacher.safetensors"
        if not weights.exists():
            train = [sys.executable, str(ROOT / "examples/digits/train.py"), "--out", str(work)]
            subprocess.run(train, stdout=subprocess.DEVNULL, check=True)
        result, runs["unbroken"] = unbroken(weights, work, args.jobs)
        compared = runs["hand_written"] = against_hand_written(result)
        checks["dominates or equals the hand-written recipe within 25 trials"] = bool(
            compared["dominated_by"] or compared["equalled_by"]
        )
        if "killed" not in args.leave_out:
            found = runs["killed_and_resumed"] = killed(weights, work, args.jobs, result)
            checks["killed and resumed gives what the unbroken run does"] = found["same_merits"]
        if "unmet" not in args.leave_out:
            found = runs["unmet"] = unmet(weights, work)
            checks["budgets that nobody meets: best so far, exit code 3"] = found["exit_code"] == 3
    written = result["candidates"][0]["merit"]
    document = {
        "command": "python hw-bench/plans/search.py",
        "left_out": args.leave_out,
        "data": "scikit-learn digits, 1,347 scans to train on, each twice; 450 held out",
        "teacher": round(written["metric"] + written["drop"], 2),
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
