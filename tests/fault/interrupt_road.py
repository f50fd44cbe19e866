"""Interrupt the road (`make demo`) at each of its steps, and see that nothing is left of it.

Run by `make soak`. Each run is interrupted by SIGINT at a seeded moment within one step; afterwards
no process of it may live and no file may remain. A last run, not interrupted, must succeed.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from skerry.bench.machine import read_machine
from skerry.devices.files import write_atomically

_ROOT = Path(__file__).resolve().parents[2]
_STEPS = 10  # those after it print tables and are over at once
_RUN_SECONDS = 600.0
_LATEST_SECONDS = 4.0  # after the step has begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=list(range(1, _STEPS + 1)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--more", action="store_true", help="keep what FILE says of other steps")
    args = parser.parse_args()
    print(f"seed {args.seed}")
    known = msgspec.json.decode(args.out.read_bytes())["runs"] if args.more else []
    runs = [run for run in known if run["step"] not in args.steps]
    for step in args.steps:
        delay = random.Random(f"{args.seed} {step}").uniform(0, _LATEST_SECONDS)
        found = _interrupted(step, delay)
        print(f"step {step:2} after {delay:.1f} s: {found}", flush=True)
        runs.append({"step": step, "seconds": delay, **found})
    runs.sort(key=lambda run: run["step"])
    with tempfile.TemporaryDirectory() as folder:
        whole = _start(Path(folder) / "road")
        said, _ = whole.communicate(timeout=_RUN_SECONDS)
    if whole.returncode:
        print(said)
    clean = [r for r in runs if r["code"] == 130 and not r["processes"] and not r["files"]]
    result = {
        "machine": read_machine(),
        "seed": args.seed,
        "runs": runs,
        "clean": len(clean),
        "afterwards": whole.returncode,
    }
    write_atomically(args.out, msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print(f"{len(clean)} of {len(runs)} left nothing; the run afterwards ended {whole.returncode}")
    return 0 if len(clean) == len(runs) and whole.returncode == 0 else 1


def _start(out: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "examples.road", "--out", str(out)]
    return subprocess.Popen(words, cwd=_ROOT, stdout=subprocess.PIPE, text=True)


def _interrupted(step: int, delay: float) -> dict[str, object]:
    """Interrupt a run `delay` seconds into `step`; the exit code, and what is left."""
    folder = Path(tempfile.mkdtemp())
    road = _start(folder / "road")
    reached = threading.Event()

    def read() -> None:
        assert road.stdout is not None
        for line in road.stdout:
            if line.startswith(f"{step}  "):
                reached.set()
        reached.set()

    reader = threading.Thread(target=read)
    reader.start()
    reached.wait(_RUN_SECONDS)
    time.sleep(delay)
    road.send_signal(signal.SIGINT)
    code = road.wait(_RUN_SECONDS)
    reader.join()
    left = {
        "code": code,
        "processes": _processes_of(folder),
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
    }
    shutil.rmtree(folder)
    return left


def _processes_of(folder: Path) -> list[str]:
    """The command lines of living processes that name `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words.strip())
    return found


if __name__ == "__main__":
    sys.exit(main())
