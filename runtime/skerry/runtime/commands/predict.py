"""Score a file of inputs with a bundle, offline.

IN.npz holds one array for each input of the bundle, named as the input; OUT.npz gets one for
each output. Rows are scored in batches.

Examples:
    skerry predict out/bundle scans.npz --out scores.npz
    skerry predict out/bundle scans.npz --out scores.npz --artifact tflite-int8
"""

from __future__ import annotations

import zipfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import InputError
from skerry.devices.files import replacing
from skerry.devices.output import Output
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the folder of a bundle")
    parser.add_argument("inputs", type=Path, metavar="IN.npz", help="arrays by input name")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.npz")
    parser.add_argument("--artifact", metavar="NAME", help="such as onnx-int8; default: what suits")
    parser.add_argument("--batch", type=int, default=64, metavar="ROWS", help="default: 64")


def run(args: Namespace, output: Output) -> int:
    if args.batch < 1:
        raise InputError("must be at least 1", where="--batch")
    runtime = Runtime.open(args.bundle, RuntimeOptions(artifact=args.artifact))
    info = runtime.info()
    assert info is not None
    arrays = _load(args.inputs, [spec.name for spec in info.inputs])
    rows = len(next(iter(arrays.values())))
    parts: list[dict[str, NDArray[Any]]] = []
    with output.progress(f"scoring {rows} rows", rows) as progress:
        for start in range(0, rows, args.batch):
            batch = {name: array[start : start + args.batch] for name, array in arrays.items()}
            parts.append(runtime.predict(batch))
            progress.advance(len(next(iter(batch.values()))))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    with replacing(args.out) as file:
        np.savez(file, allow_pickle=False, **found)
    runtime.close()
    document = {
        "out": str(args.out),
        "rows": rows,
        "model": info.model,
        "version": info.version,
        "manifest": info.manifest,
        "artifact": info.artifact,
        "outputs": {name: list(array.shape) for name, array in found.items()},
    }
    output.result(document, f"{rows} rows scored by {info.artifact}: {args.out}")
    return 0


def _load(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz that are inputs; what else it holds is left alone."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                have = ", ".join(archive.files) or "nothing"
                raise InputError(f"no array {missing[0]!r}", where=path, remedy=f"it has {have}")
            arrays = {name: np.atleast_1d(archive[name]) for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"not an .npz of plain arrays: {error}", where=path) from error
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InputError(f"the arrays need one length above 0: {lengths}", where=path)
    return arrays
