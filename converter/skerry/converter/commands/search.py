"""Search recipes for the best model within budgets.

The recipe's table [search.space] says which of its keys may change, and to what:

  [search.space]
  "step[0].epochs" = { low = 8, high = 24 }          # whole numbers
  "step[1].ratio" = [0.25, 0.5, 0.75]                # one of these
  "step[1]" = [true, false]                          # whether the step is taken at all
  "quantize.refinements" = [[], ["bias_correction"]]

Candidates are tried on a share of epochs and rows first; the better half goes on (successive
halving), is emitted and run. The first candidate is the recipe as it is. Every candidate that none
beats in bytes, latency and points stays on the Pareto front, and DIR/candidates/N/recipe.toml makes
it again with `skerry convert`. The folder also gets report.html and search.json.

  skerry search recipe.toml --budget size=30kB --budget latency=0.25x --trials 25 --out out/search
  skerry search recipe.toml --budget accuracy=-0.4 --trials 50 --jobs 4 --out out/search

Candidates are chosen by some of the rows only: data.validation where the recipe names it, else a
part of the evaluation rows (search.validation, half of them). The front's points on the other rows,
which played no part in choosing, stand beside: those are what to expect.

Budgets: size=1MB or 0.1x (of the source as fp32) · latency=3ms or 0.25x · accuracy=98.5 (points at
least) or -0.4 (points below the source at most).

Stopped or killed, the same command goes on where it was, and ends with the same front as if it had
not been. That holds with any --jobs; with --latency measured, for what was measured already. Where
the model, the data or Python files beside them have changed meanwhile, it is refused.

Exit codes: 0 the best is within every budget · 2 the recipe, its space or an option cannot be
used · 3 none is: the best so far is kept, and the budgets that bind are named · 5 no disk, no
cluster, or another conversion is writing to the folder.
"""

from __future__ import annotations

import signal
from argparse import ArgumentParser, Namespace
from pathlib import Path

from skerry.converter.quiet import quieten
from skerry.devices.errors import ExitCode, InputError
from skerry.devices.output import Output, human_bytes, table

__all__ = ["configure", "run"]

_MOST_TRIALS = 10_000


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="a recipe with [search]")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="KIND=LIMIT",
        help="size, latency or accuracy; may be given once for each",
    )
    parser.add_argument(
        "--trials", type=int, default=25, metavar="N", help="candidates to try; 25 by default"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="how many at once; 1 by default"
    )
    parser.add_argument(
        "--cluster",
        default="",
        metavar="ADDRESS",
        help="run trials on a Dask cluster instead, tcp://host:8786; needs the extra `cluster`",
    )
    parser.add_argument(
        "--latency",
        choices=("counted", "measured"),
        default="counted",
        help="judge latency by multiply-adds and operators times the profile's constants, the same "
        "each time (the default), or by this machine's clock",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a key of the recipe first; paths are relative to here",
    )


def run(args: Namespace, output: Output) -> int:
    """Search; GATE_FAILED if the best is beyond a budget."""
    from skerry.converter.recipe_file import check_document, read_document
    from skerry.converter.search.budget import read_budgets

    if not 1 <= args.trials <= _MOST_TRIALS:
        raise InputError(
            f"{args.trials} trials", where="--trials", remedy=f"give 1 to {_MOST_TRIALS}"
        )
    budgets = read_budgets(args.budget)
    document = read_document(args.recipe, args.overrides)
    check_document(args.recipe, document)
    quieten()
    from skerry.converter.search.flow import Wanted, search
    from skerry.converter.search.workers import open_workers

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wanted = Wanted(budgets, args.trials, args.latency == "measured")
    try:
        with open_workers(args.jobs, args.cluster) as workers:
            result = search(args.recipe, document, wanted, workers, args.out, output)
    except KeyboardInterrupt:
        output.note(f"stopped; the same command goes on in {args.out}")
        raise
    by_number = {one.trial: one for one in result.candidates}
    rows = []
    for number in result.front:
        one = by_number[number]
        if one.merit is None:
            continue
        rows.append(
            [
                f"{number}{' best' if number == result.best else ''}",
                human_bytes(one.merit.bytes),
                f"{one.merit.bytes_ratio:.3f}×",
                f"{one.merit.latency_ratio:.3f}×",
                f"{one.measured_ratio:.3f}×",
                f"{one.merit.metric:.2f}",
                f"{one.merit.drop:+.2f}",
                "" if one.unseen is None else f"{one.unseen.metric:.2f}",
                "" if one.unseen is None else f"{one.unseen.drop:+.2f}",
                "yes" if one.within else "no",
            ]
        )
    head = ["trial", "bytes", "of source", f"latency, {result.latency}", "by the clock"]
    head += [result.metric, "drop", "unseen rows", "drop", "within budgets"]
    finished = sum(one.finished for one in result.candidates)
    best = by_number[result.best]
    text = (
        f"{result.model}, {result.artifact}: {len(result.candidates)} candidates, {finished} of "
        f"them in full, {len(result.front)} on the front\n\n{table(head, rows)}\n\n"
        f"best   {args.out / best.recipe}\nreport {args.out / 'report.html'}"
    )
    output.result(result, text)
    if not result.passed:
        named = ", ".join(result.binding)
        output.note(f"no candidate is within every budget; the best so far is beyond {named}")
        return ExitCode.GATE_FAILED
    if not best.unseen_within:
        output.note("on rows that played no part in choosing, the best is beyond the budgets")
    if result.binding:
        output.note(f"a more accurate candidate is beyond {', '.join(result.binding)}")
    return ExitCode.OK
