"""Run the training steps of a recipe, and nothing else.

For a machine with a GPU: it needs neither the engines nor the emitters. The output folder gets
model/weights.safetensors (the fp32 model after the steps), model/step-N.safetensors (after each),
model/quantized.safetensors where the last step is qat, and steps.json. Another recipe takes them
up without training again: a distill step with `start = "…/weights.safetensors"` and a qat step
with `start = "…/quantized.safetensors"`, both with `epochs = 0`; or `source.weights`. A training
that was interrupted goes on from its last epoch when the same command is given again.

  skerry train recipe.toml --out trained
  skerry train recipe.toml --out trained --set build.device=cuda --set build.seed=1

Exit codes: 0 trained · 2 the recipe, model or data cannot be used · 5 the disk is full,
or another conversion is writing to the folder.
"""

from __future__ import annotations

import signal
from argparse import ArgumentParser, Namespace
from pathlib import Path

from skerry.converter.quiet import quieten
from skerry.devices.errors import ExitCode
from skerry.devices.output import Output, table

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to do")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="output folder")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a key of the recipe, such as build.seed=1; paths are relative to here",
    )


def run(args: Namespace, output: Output) -> int:
    """Train."""
    from skerry.converter.recipe_file import load_recipe

    file = load_recipe(args.recipe, args.overrides)
    quieten()
    from skerry.converter.stepping import train  # torch loads only once the recipe is found good

    # Being told to stop is like Ctrl-C: the epoch that is done is saved.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    records = train(file, args.out, output)
    rows = [
        [one.kind, f"{one.seconds:.0f}", f"{one.parameters:,}", f"{one.metric:.2f}"]
        for one in records
    ]
    head = ["step", "seconds", "parameters", file.recipe.data.metric]
    output.result(records, f"{table(head, rows)}\n\nmodel {args.out / 'model'}")
    return ExitCode.OK
