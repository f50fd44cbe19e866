"""Serve a bundle over HTTP, by the Open Inference Protocol v2, until it is told to stop.

Examples:
    skerry run out/bundle --http 127.0.0.1:8080
    curl localhost:8080/v2/health/ready
    skerry run out/bundle --uds /run/skerry.sock
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from skerry.devices.errors import InputError
from skerry.devices.output import Output
from skerry.runtime.engine.base import EngineOptions
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.server import serve

__all__ = ["configure", "run"]


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the folder of a bundle")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--http", default="127.0.0.1:8080", metavar="HOST:PORT")
    where.add_argument("--uds", type=Path, metavar="PATH", help="a Unix socket instead")
    parser.add_argument("--artifact", metavar="NAME", help="such as onnx-int8; default: what suits")
    parser.add_argument("--threads", type=int, default=1, help="of the engine; default: 1")


def run(args: Namespace, output: Output) -> int:
    if args.threads < 1:
        raise InputError("must be at least 1", where="--threads")
    host, _, port = args.http.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise InputError(f"{args.http!r} is not HOST:PORT", where="--http")
    options = RuntimeOptions(artifact=args.artifact, engine=EngineOptions(threads=args.threads))
    runtime = Runtime.open(args.bundle, options)
    info = runtime.info()
    assert info is not None

    def started(address: str) -> None:
        document = {"address": address, **msgspec.to_builtins(info)}
        text = f"{info.model} {info.version} ({info.artifact}, {info.engine}) answers at {address}"
        output.result(document, text)

    serve(
        runtime,
        host=host.strip("[]") or "127.0.0.1",
        port=int(port),
        uds=args.uds,
        on_start=started,
    )
    runtime.close()
    return 0
