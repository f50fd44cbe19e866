"""Score a file of inputs, or a folder of them, with a bundle, offline.

IN.npz holds one array for each input of the bundle, named as the input (or IN.npy the only one);
OUT.npz gets one for each output. Of a folder every .npz and .npy below it is scored to the same
place below OUT; one that cannot be is told at the end, and the rest goes on. Rows are scored in
batches. What is stopped, by Ctrl-C or by a power cut, goes on where it was when the same command is
given again; what is done already is not done twice.

Examples:
    skerry predict out/bundle scans.npz --out scores.npz
    skerry predict out/bundle scans.npz --out scores.npz --artifact tflite-int8
    skerry predict out/bundle archive/ --out scores/ --power latency
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.output import Output
from skerry.runtime.commands.engines import add_engine_arguments, engine_of
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.prepared import Info
from skerry.runtime.runtime import Runtime
from skerry.runtime.scorable import outputs_of
from skerry.runtime.scoring import OutputError, ScoreLimits, Scorer, make_folder

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the folder of a bundle")
    parser.add_argument("inputs", type=Path, metavar="IN", help="an .npz or .npy, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="an .npz, or a folder for a folder")
    parser.add_argument("--artifact", metavar="NAME", help="such as onnx-int8; default: what suits")
    parser.add_argument("--batch", type=int, default=64, metavar="ROWS", help="default: 64")
    add_engine_arguments(parser)


def run(args: Namespace, output: Output) -> int:
    if args.batch < 1:
        raise InputError("must be at least 1", where="--batch")
    outputs = outputs_of(args.inputs, args.out)
    options = RuntimeOptions(artifact=args.artifact, engine=engine_of(args))
    runtime = Runtime.open(args.bundle, options)
    info = runtime.info()
    assert info is not None
    scorer = Scorer(runtime, ScoreLimits(batch=args.batch))
    try:
        if args.inputs in outputs:
            return _file(args, output, scorer, info)
        return _folder(args, output, scorer, info, outputs)
    except KeyboardInterrupt:
        output.note("stopped; the same command goes on from here")
        raise
    finally:
        runtime.close()


def _file(args: Namespace, output: Output, scorer: Scorer, info: Info) -> int:
    rows = 0
    with output.progress(f"scoring {args.inputs.name}") as progress:

        def advance(count: int) -> None:
            nonlocal rows
            rows += count
            progress.advance(count, f"{rows} rows")

        now = scorer.score(args.inputs, args.out, advance)
    document = {"out": str(args.out), "rows": rows, "rows_now": now, **_told(info)}
    before = f", {rows - now} of them before" if now < rows else ""
    output.result(document, f"{rows} rows scored by {info.artifact}{before}: {args.out}")
    return 0


def _folder(
    args: Namespace, output: Output, scorer: Scorer, info: Info, outputs: dict[Path, Path]
) -> int:
    make_folder(args.out)
    failed: dict[str, InputError | UnavailableError] = {}
    rows = before = scored = 0
    with output.progress(f"scoring {len(outputs)} files", len(outputs)) as progress:
        for path, out in outputs.items():
            name = str(path.relative_to(args.inputs))
            try:
                if scorer.is_done(path, out):
                    before += 1
                else:
                    rows += scorer.score(path, out, lambda count: None)  # noqa: ARG005 - files are counted
                scored += 1
            except (InputError, UnavailableError) as error:
                failed[name] = error
                if isinstance(error, OutputError):
                    break
            progress.advance(1, name)
    document = {
        "out": str(args.out),
        "files": len(outputs),
        "files_done_before": before,
        "rows_now": rows,
        "failed": {name: str(error) for name, error in failed.items()},
        **_told(info),
    }
    text = f"{scored} of {len(outputs)} files scored by {info.artifact}, {before} of them before"
    output.result(document, f"{text}: {args.out}")
    return _verdict(failed, len(outputs) - scored, len(outputs))


def _verdict(failed: dict[str, InputError | UnavailableError], left: int, files: int) -> int:
    """Fail as the one that ended it did; else as bad input, if any is."""
    if not failed:
        return 0
    last = next(reversed(failed.values()))
    if isinstance(last, OutputError):
        raise last
    name, problem = next(iter(failed.items()))
    text = f"{left} of {files} files not scored, as {name}: {problem}"
    if any(isinstance(error, InputError) for error in failed.values()):
        raise InputError(text)
    raise UnavailableError(text)


def _told(info: Info) -> dict[str, str]:
    return {
        "model": info.model,
        "version": info.version,
        "manifest": info.manifest,
        "artifact": info.artifact,
    }
