"""Score a file of inputs, or a folder of them, with a bundle, offline.

IN.npz holds one array for each input of the bundle, named as the input (or IN.npy the only one);
OUT.npz gets one for each output. Of a folder every .npz and .npy below it is scored to the same
place below OUT. Rows are scored in batches. What is stopped, by Ctrl-C or by a power cut, goes on
where it was when the same command is given again; what is done already is not done twice.

Examples:
    skerry predict out/bundle scans.npz --out scores.npz
    skerry predict out/bundle scans.npz --out scores.npz --artifact tflite-int8
    skerry predict out/bundle archive/ --out scores/ --power latency
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from skerry.devices.errors import InputError
from skerry.devices.output import Output
from skerry.runtime.commands.engines import add_engine_arguments, engine_of
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.prepared import Info
from skerry.runtime.runtime import Runtime
from skerry.runtime.scoring import ScoreLimits, Scorer, inputs_below

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
    options = RuntimeOptions(artifact=args.artifact, engine=engine_of(args))
    runtime = Runtime.open(args.bundle, options)
    info = runtime.info()
    assert info is not None
    scorer = Scorer(runtime, ScoreLimits(batch=args.batch))
    try:
        if args.inputs.is_dir():
            return _folder(args, output, scorer, info)
        return _file(args, output, scorer, info)
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
    output.result(document, f"{rows} rows scored by {info.artifact}: {args.out}")
    return 0


def _folder(args: Namespace, output: Output, scorer: Scorer, info: Info) -> int:
    if args.out.resolve().is_relative_to(args.inputs.resolve()):
        raise InputError(
            "lies in the folder of inputs", where=args.out, remedy="give another --out"
        )
    paths = inputs_below(args.inputs)
    if not paths:
        raise InputError("no .npz or .npy in this folder", where=args.inputs)
    failed: dict[str, str] = {}
    rows = done = 0
    with output.progress(f"scoring {len(paths)} files", len(paths)) as progress:
        for path in paths:
            name = str(path.relative_to(args.inputs))
            out = (args.out / name).with_suffix(".npz")
            try:
                if scorer.is_done(path, out):
                    done += 1
                else:
                    rows += scorer.score(path, out, lambda count: None)  # noqa: ARG005 - files are counted
            except InputError as error:
                failed[name] = str(error)
            progress.advance(1, name)
    document = {
        "out": str(args.out),
        "files": len(paths),
        "files_done_before": done,
        "rows_now": rows,
        "failed": failed,
        **_told(info),
    }
    scored = len(paths) - len(failed)
    text = f"{scored} of {len(paths)} files scored by {info.artifact}, {done} of them before"
    output.result(document, f"{text}: {args.out}")
    if failed:
        name, problem = next(iter(failed.items()))
        raise InputError(f"{len(failed)} of {len(paths)} files not scored, as {name}: {problem}")
    return 0


def _told(info: Info) -> dict[str, str]:
    return {
        "model": info.model,
        "version": info.version,
        "manifest": info.manifest,
        "artifact": info.artifact,
    }
