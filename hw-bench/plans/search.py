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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/search.json")
    parser.add_argument("--work", type=Path, help="a folder to keep; by default a temporary one")
    args = parser.parse_args()
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        train = [sys.executable, str(ROOT / "examples/digits/train.py"), "--out", str(work)]
        teacher = json.loads(
            subprocess.run(train, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
        )
        weights = work / "teacher.safetensors"
        whole = command(weights, work / "whole", TRIALS, args.jobs, *BUDGETS)
        code, result, _ = run(whole)
        seconds = round(sum(one["seconds"] for one in result["candidates"]), 1)
        print(f"unbroken: exit code {code}, trials took {seconds} s", flush=True)
        broken = command(weights, work / "broken", KILLED_TRIALS, args.jobs, *BUDGETS)
        lines = kill_midway(broken, work / "broken/journal.jsonl")
        again_code, again, again_seconds = run(broken)
        print(f"resumed: exit code {again_code} in {again_seconds} s", flush=True)
        tight = ("--budget", "size=2kB", "--budget", "accuracy=99.9")
        none_code, none, _ = run(command(weights, work / "none", 2, 1, *tight))
        print(f"unmet: exit code {none_code}", flush=True)
    first = finished(result, KILLED_TRIALS)
    resumed = finished(again, KILLED_TRIALS)
    document = {
        "command": "python hw-bench/plans/search.py",
        "data": "scikit-learn digits, 1,347 scans to train on, each twice; 450 held out",
        "teacher": {key: teacher[key] for key in ("accuracy", "parameters")},
        "seed": 0,
        "jobs": args.jobs,
        "unbroken": {
            "exit_code": code,
            "seconds_of_all_trials": seconds,
            "trials": len(result["candidates"]),
            "in_full": sum(one["finished"] for one in result["candidates"]),
            **{key: result[key] for key in ("budgets", "best", "passed", "binding", "front")},
            "candidates": [
                {key: one[key] for key in ("trial", "values", "merit", "finished", "seconds")}
                | {"measured_ratio": one["measured_ratio"]}
                for one in result["candidates"]
            ],
        },
        "hand_written": against_hand_written(result),
        "killed_and_resumed": {
            "trials": KILLED_TRIALS,
            "journal_lines_at_the_kill": lines,
            "exit_code": again_code,
            "seconds_after_the_kill": again_seconds,
            "front": list(front(resumed)),
            "front_unbroken": list(front(first)),
            "same_merits": resumed == first,
        },
        "unmet": {
            "exit_code": none_code,
            **{key: none[key] for key in ("budgets", "best", "passed", "binding", "unmet")},
        },
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(read_now()),
    }
    compared = document["hand_written"]
    document["checks"] = {
        "dominates or equals the hand-written recipe within 25 trials": bool(
            compared["dominated_by"] or compared["equalled_by"]
        ),
        "killed and resumed gives the front of the unbroken run": resumed == first,
        "budgets that nobody meets: best so far, exit code 3": none_code == 3
        and not none["passed"],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document["checks"], indent=2))
    return 0 if all(document["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
