"""Make a bundle of artifacts from a model, by a recipe.

The recipe says where model and data are, which steps to take (distill, prune, finetune), how to
quantize, which formats to emit, and which gates they must pass. Every artifact is run against the
source before it is written. The output folder gets bundle/ (an OCI layout), artifacts/, model/,
report.html and result.json.

  skerry convert examples/digits/recipe.toml --out out/digits/v1
  skerry convert recipe.toml --out out --set model.version=2 --set source.weights=new.safetensors

Exit codes: 0 made, every gate passed · 2 the recipe, model or data cannot be used · 3 made, but a
gate failed (everything is saved and says so) · 5 the disk is full.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from skerry.converter.quiet import quieten
from skerry.devices.errors import ExitCode
from skerry.devices.output import Output, human_bytes, table

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to do")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
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
    from skerry.converter.recipe_file import load_recipe

    file = load_recipe(args.recipe, args.overrides)
    quieten()
    from skerry.converter.flow import convert  # torch loads only once the recipe is found good

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
