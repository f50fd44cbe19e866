"""Make a bundle of artifacts from a model, by a recipe.

The recipe says where model and data are, which steps to take (distill, prune, finetune), how to
quantize, which formats to emit, and which gates they must pass. Every artifact is run against the
source before it is written. The output folder gets bundle/ (an OCI layout), artifacts/, model/,
report.html and result.json.

  skerry convert examples/digits/recipe.toml --out out/digits/v1
  skerry convert recipe.toml --init model.onnx
  skerry convert recipe.toml --out out --set model.version=2 --set source.weights=new.safetensors

Exit codes: 0 made, every gate passed · 2 the recipe, model or data cannot be used · 3 made, but a
gate failed (everything is saved and says so) or an artifact's values are not finite (nothing is
saved) · 5 the disk is full, or another conversion is writing to the folder.
"""

from __future__ import annotations

import os
import signal
from argparse import ArgumentParser, Namespace
from pathlib import Path

from skerry.converter.quiet import quieten
from skerry.devices.errors import ExitCode, InputError
from skerry.devices.files import write_atomically
from skerry.devices.output import Output, human_bytes, table

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "recipe",
        type=Path,
        nargs="?",
        default=Path("recipe.toml"),
        metavar="RECIPE.toml",
        help="what to do; recipe.toml by default",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder")
    parser.add_argument(
        "--init",
        metavar="SOURCE",
        help="write RECIPE.toml for this model (file.py:factory, .onnx, .pt2, .keras, .h5, "
        "SavedModel folder) with what can be inferred, and stop",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a key of the recipe, such as model.version=2; paths are relative to here",
    )


def run(args: Namespace, output: Output) -> int:
    """Convert; GATE_FAILED if a gate failed."""
    if args.init is not None:
        return _begin(args.recipe, args.init, output)
    from skerry.converter.recipe_file import load_recipe

    if args.out is None:
        raise InputError("no output folder", where="--out", remedy="give --out DIR")
    file = load_recipe(args.recipe, args.overrides)
    quieten()
    from skerry.converter.flow import convert  # torch loads only once the recipe is found good

    # Being told to stop is like Ctrl-C: what is unfinished is removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    result = convert(file, args.out, output)
    rows = [
        [
            one.name,
            human_bytes(one.bytes),
            f"{one.bytes_ratio:.3f}×",
            f"{one.metric:.2f}",
            f"{one.metric_drop:+.2f}",
            f"{100 * one.agreement:.2f}%",
            f"{one.snr_db:.1f}",
            "" if one.latency_ms is None else f"{one.latency_ms.p50:.3f}",
            "passed" if one.passed else "failed",
        ]
        for one in result.artifacts
    ]
    head = [
        "artifact",
        "bytes",
        "of source",
        result.metric,
        "drop",
        "agreement",
        "SNR dB",
        "p50 ms",
    ]
    text = (
        f"{result.model} {result.version}: {result.source.name} scores {result.source.metric:.2f} "
        f"on {result.source.rows} rows\n\n{table([*head, 'gates'], rows)}\n\n"
        f"bundle {args.out / result.bundle}\nreport {args.out / 'report.html'}"
    )
    output.result(result, text)
    for one in result.artifacts:
        for name, gate in one.gates.items():
            if not gate.passed:
                output.note(f"{one.name}: {name} is {gate.value:.4g}, the limit is {gate.limit:g}")
    return ExitCode.OK if result.passed else ExitCode.GATE_FAILED


def _begin(recipe: Path, model: str, output: Output) -> int:
    """Write a first recipe; it is never written over another."""
    quieten()
    from skerry.converter.starting import first_recipe

    if recipe.exists():
        raise InputError("is there already", where=recipe, remedy="name another file")
    if not recipe.parent.is_dir():
        raise InputError("there is no such folder", where=recipe.parent, remedy="make it first")
    text = first_recipe(_from(recipe, model), recipe.resolve().parent)
    write_atomically(recipe, text.encode())
    output.result({"recipe": str(recipe)}, f"wrote {recipe}; see its comments, then convert it")
    return ExitCode.OK


def _from(recipe: Path, model: str) -> str:
    """The model's path as the recipe must name it: relative to the recipe's folder."""
    path, colon, name = model.rpartition(":") if ".py:" in model else (model, "", "")
    return os.path.relpath(Path(path).resolve(), recipe.resolve().parent) + colon + name
