"""How often the drift verdict is wrong on unchanged data, and how often it sees a shift.

    python hw-bench/plans/drift_rates.py [--share 1.0] [--out FILE]

Data are drawn from a seed and sketched as a release and a device sketch them; live sketches draw
chances of their own, so the figures come back nearly, not exactly. Each cell gives, for the rule as
it is, and as it was before where the repository's history is there, the verdicts in
percent. On unchanged data anything but `ok` is a false alarm. A rate of 1 in 10,000 is too rare to
count verdict by verdict, so each cell is also judged with alpha = 0.2: the rule holds if no more
than a fifth of them are alarms, which its tail must follow from there on. `tail` shows that: of 10
bins, the share of draws beyond what G is said to exceed at that rate.
"""

import argparse
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(Path(__file__).parent)]

from _result import write_result  # noqa: E402

from skerry.bench.machine import read_now  # noqa: E402
from skerry.runtime.sketches import SketchSet  # noqa: E402
from skerry.telemetry import drift  # noqa: E402

SEED, BEFORE = 20_261, "824412a:telemetry/skerry/telemetry/drift.py"
LEAST = 50
DRAWS = {
    "normal": lambda r, n: r.normal(size=n),
    "cauchy": lambda r, n: r.standard_cauchy(n),
    "poisson": lambda r, n: r.poisson(1.5, n),
    "rare": lambda r, n: r.random(n) < 0.02,
    "constant": lambda _, n: np.full(n, 3.0),
}
# kinds of column, columns, classes, their Zipf exponent, n, m, windows, verdicts
QUIET = [
    ("normal", 1, 0, 0, 1000, 100, 1, 400),
    ("normal", 10, 0, 0, 1000, 50, 1, 300),
    ("normal", 10, 0, 0, 1000, 100, 1, 300),
    ("normal", 10, 0, 0, 5000, 1000, 10, 100),
    ("normal", 64, 0, 0, 1000, 50, 1, 150),
    ("normal", 64, 0, 0, 1000, 100, 1, 200),
    ("normal", 64, 0, 0, 5000, 300, 3, 80),
    ("normal", 64, 0, 0, 100, 2000, 1, 100),
    ("normal", 64, 0, 0, 5000, 1000, 60, 20),
    ("normal", 10, 0, 0, 20_000, 100_000, 60, 10),
    ("mixed", 64, 100, 1, 1000, 100, 1, 150),
    ("mixed", 64, 100, 1, 5000, 3000, 10, 30),
    ("mixed", 10, 100, 1, 20_000, 100_000, 60, 8),
    *(
        ("normal", 0, k, s, n, m, 1, 500)
        for k, s in ((10, 0), (100, 0), (100, 1), (1000, 0), (1000, 1))
        for n, m in ((1000, 100), (5000, 1000), (100_000, 100), (1000, 5000))
    ),
]
# what shifts, columns, how many of them shift, by how many sigma, times what, n, m, verdicts
SHIFTS = [
    ("half a sigma", 2, 2, 0.5, 1.0, 5000, 1000, 150),
    ("half a sigma", 10, 1, 0.5, 1.0, 5000, 1000, 100),
    ("half a sigma", 64, 1, 0.5, 1.0, 5000, 1000, 30),
    ("half a sigma", 1, 1, 0.5, 1.0, 1000, 150, 200),
    ("half a sigma", 1, 1, 0.5, 1.0, 1000, 300, 200),
    ("half again as wide", 1, 1, 0.0, 1.5, 1000, 300, 200),
    ("one sigma", 2, 2, 1.0, 1.0, 1000, 100, 150),
    ("one sigma", 10, 1, 1.0, 1.0, 1000, 100, 150),
    ("one sigma", 64, 1, 1.0, 1.0, 1000, 100, 60),
    ("one sigma", 10, 1, 1.0, 1.0, 1000, 300, 150),
    ("one sigma", 64, 1, 1.0, 1.0, 1000, 300, 60),
    ("twice as wide", 10, 1, 0.0, 2.0, 1000, 300, 150),
    ("twice as wide", 64, 1, 0.0, 2.0, 5000, 1000, 30),
]
# classes, n, m, share of the live rows that go to one class
CLASS_SHIFTS = [
    (10, 1000, 100, 0.3),
    (10, 5000, 1000, 0.2),
    (100, 1000, 100, 0.5),
    (100, 100_000, 100, 0.5),
    (1000, 5000, 1000, 0.5),
    (1000, 100_000, 100, 0.5),
]


def former():
    """The rule as it was, as a module; None where the history is not there."""
    found = subprocess.run(["git", "show", BEFORE], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        return None
    module = sys.modules["former"] = types.ModuleType("former")
    exec(compile(found.stdout, BEFORE, "exec"), module.__dict__)
    return module


def kinds(kind, columns):
    return [list(DRAWS)[i % len(DRAWS)] if kind == "mixed" else kind for i in range(columns)]


def sketched(draw, rows, windows, *, reference):
    """Sketches of `rows` rows, encoded and read again, in so many windows."""
    whole = SketchSet(reference=reference)
    for part in range(windows):
        share = rows * (part + 1) // windows - rows * part // windows
        one = SketchSet(reference=reference)
        one.add(share, *draw(share))
        read = SketchSet.decode(one.encode())
        if reference:
            return read
        whole.merge(read)
    return whole


def shares(classes, exponent):
    weights = 1 / np.arange(1, classes + 1) ** float(exponent) if classes else np.ones(1)
    return weights / weights.sum()


def judged(rng, rules, names, p, sizes, windows, change=lambda columns, p: (columns, p)):
    """One reference and one device; the verdict of each rule."""

    def draw(rows, *, live):
        columns = {f"c{i}": DRAWS[kind](rng, rows) for i, kind in enumerate(names)}
        columns, q = change(columns, p) if live else (columns, p)
        counts = {"y": rng.multinomial(rows, q)} if p.size > 1 else {}
        return {k: v.astype(np.float32) for k, v in columns.items()}, counts

    n, m = sizes
    reference = sketched(lambda rows: draw(rows, live=False), n, 1, reference=True)
    live = sketched(lambda rows: draw(rows, live=True), m, windows, reference=False)
    return {name: rule(reference, live).verdict for name, rule in rules.items()}


def cell(rules, times, *args, **kwargs):
    rng = np.random.default_rng(SEED)
    seen = {name: Counter() for name in rules}
    for _ in range(times):
        for name, verdict in judged(rng, rules, *args, **kwargs).items():
            seen[name][verdict] += 1
    percent = {
        name: {verdict: round(100 * count / times, 2) for verdict, count in sorted(one.items())}
        for name, one in seen.items()
    }
    return {"verdicts": times, "percent": percent}


def moved(shifted, by, times):
    """The first columns moved and stretched."""

    def change(columns, p):
        new = {f"c{i}": columns[f"c{i}"] * times + by for i in range(shifted)}
        return {**columns, **new}, p

    return change


def taken(share):
    """One class takes a share of the rows."""

    def change(columns, p):
        q = (1 - share) * p
        q[-1] += share
        return columns, q

    return change


def tail(n, m, draws):
    """The share of draws of 10 bins beyond what G is said to exceed at each rate."""
    rng, p = np.random.default_rng(SEED), np.full(10, 0.1)
    c, d = rng.multinomial(n, p, draws), rng.multinomial(m, p, draws)
    beyond = Counter()
    for one, other in zip(c / n, d / m, strict=True):
        for alpha in (1e-2, 1e-3, 1e-4):
            beyond[alpha] += not drift._by_chance(one, other, n, m, alpha)
    rates = {f"{alpha:g}": count / draws for alpha, count in beyond.items()}
    return {"reference": n, "live": m, "draws": draws, "beyond": rates}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the draws below, 0 to 1")
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/drift_rates.json")
    args = parser.parse_args()
    before, old = read_now(), former()
    print(f"seed {SEED}", flush=True)
    strict = drift.Thresholds(least_count=LEAST)
    lax = drift.Thresholds(least_count=LEAST, alpha=0.2)
    rules = {"now": lambda reference, live: drift.compare(reference, live, strict)}
    if old is not None:
        was = old.Thresholds(least_count=LEAST)
        rules["before"] = lambda reference, live: old.compare(reference, live, was)
    both = rules | {"now, alpha 0.2": lambda reference, live: drift.compare(reference, live, lax)}
    times = lambda count: max(3, round(count * args.share))  # noqa: E731 - one use
    quiet, shifts = [], []
    for kind, columns, classes, exponent, n, m, windows, count in QUIET:
        found = cell(
            both, times(count), kinds(kind, columns), shares(classes, exponent), (n, m), windows
        )
        names = {"columns": columns, "kind": kind, "classes": classes, "zipf": exponent}
        quiet.append(names | {"reference": n, "live": m, "windows": windows} | found)
    for what, columns, shifted, by, wide, n, m, count in SHIFTS:
        change = moved(shifted, by, wide)
        found = cell(
            rules, times(count), kinds("normal", columns), shares(0, 0), (n, m), 1, change=change
        )
        names = {"shift": what, "columns": columns, "shifted": shifted}
        shifts.append(names | {"reference": n, "live": m} | found)
    for classes, n, m, share in CLASS_SHIFTS:
        found = cell(rules, times(200), [], shares(classes, 0), (n, m), 1, change=taken(share))
        names = {"shift": f"one class takes {share:.0%}", "classes": classes}
        shifts.append(names | {"reference": n, "live": m} | found)
    tails = [tail(n, m, times(100_000)) for n, m in ((1000, 50), (1000, 100), (100_000, 100))]
    found = {"seed": SEED, "alpha": strict.alpha, "unchanged": quiet, "shifted": shifts}
    write_result(args.out, found | {"tail": tails}, before)


if __name__ == "__main__":
    main()
