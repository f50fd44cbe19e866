"""Run every heavy measurement, one after the other; what `make bench` does.

Each plan is a script beside this one that writes its result to hw-bench/results/. One that needs
data or a peer that is not here says so and is skipped; one that fails does not stop the others.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
_PLANS = sorted(
    path.stem
    for path in _HERE.glob("*.py")
    if path.stem not in ("run_all", "delta_pairs") and "def main" in path.read_text()
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plans", nargs="*", metavar="PLAN", help=f"of {', '.join(_PLANS)}")
    args = parser.parse_args()
    if unknown := set(args.plans) - set(_PLANS):
        parser.error(f"no plan {sorted(unknown)[0]!r}; there are {', '.join(_PLANS)}")
    failed = []
    for name in args.plans or _PLANS:
        began = time.monotonic()
        print(f"── {name}", flush=True)
        code = subprocess.run([sys.executable, _HERE / f"{name}.py"], cwd=_ROOT).returncode
        print(f"── {name}: exit code {code} after {time.monotonic() - began:.0f} s\n", flush=True)
        if code:
            failed.append(name)
    subprocess.run([sys.executable, _ROOT / "hw-bench" / "headlines.py"], check=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
