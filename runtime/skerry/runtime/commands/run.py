"""Serve a bundle, or a folder of bundles, by the Open Inference Protocol v2 over HTTP and gRPC.

Of a folder each model is loaded when it is first asked for, and closed where `--memory` would be
exceeded; what is asked for often stays. Where there are several versions of a model, the newest is
answered, unless `labels.json` in the folder says otherwise: {"digits": {"stable": "1"}}.
Beyond this machine it listens only with TLS, and a token or the CA of its clients' certificates.
`--isolate` runs the engine in a process of its own, so that one that crashes or hangs is replaced
while the server stays. `--cache` keeps answers, and stops by itself where that does not pay.
Where requests follow each other closely, the server stays awake for 0.15 ms after each answer; with
`--power latency` for 1 ms, which takes up to a core while it is asked; with `frugal` not at all.

Examples:
    skerry run out/bundle --http 127.0.0.1:8080
    curl localhost:8080/v2/health/ready
    skerry run models/ --memory 128
    skerry run out/bundle --uds /run/skerry.sock --isolate --cache 16
    skerry run out/bundle --http 127.0.0.1:8080 --grpc 127.0.0.1:8081
    skerry run out/bundle --http 0.0.0.0:8443 --token-file token --tls cert.pem key.pem
    skerry run out/bundle --http 0.0.0.0:8443 --tls cert.pem key.pem --clients-ca fleet.pem
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import msgspec

from skerry.devices.errors import InputError
from skerry.devices.output import Output
from skerry.runtime.blobs import reading
from skerry.runtime.commands.engines import add_engine_arguments, choices_path, engine_of
from skerry.runtime.engine.caching import CacheLimits
from skerry.runtime.measured import Choices
from skerry.runtime.power import AWAKE_S
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.listen import Access, Address
from skerry.runtime.serve.placement import place
from skerry.runtime.serve.server import Server
from skerry.runtime.shelf import Shelf, ShelfLimits

__all__ = ["configure", "run"]

_TOKEN_BYTES = 4096


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the folder of a bundle, or of bundles")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--http", default="127.0.0.1:8080", metavar="HOST:PORT", help="or unix:PATH")
    where.add_argument("--uds", type=Path, metavar="PATH", help="a Unix socket instead")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="gRPC as well; or unix:PATH")
    parser.add_argument("--token-file", type=Path, help="clients must send the token it holds")
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERT", "KEY"), help="PEM files")
    parser.add_argument("--clients-ca", type=Path, metavar="PEM", help="clients need a certificate")
    parser.add_argument("--artifact", metavar="NAME", help="such as onnx-int8; default: what suits")
    parser.add_argument(
        "--measure", action="store_true", help="run what is quickest here, and remember it"
    )
    parser.add_argument("--standby", metavar="NAME", help="answers where the artifact cannot")
    add_engine_arguments(parser)
    parser.add_argument("--isolate", action="store_true", help="the engine in its own process")
    parser.add_argument("--cache", type=int, metavar="MB", help="keep answers in so many MB")
    parser.add_argument("--cache-file", type=Path, metavar="PATH", help="and over restarts")
    parser.add_argument(
        "--memory", type=int, default=256, metavar="MB", help="of a folder's models; default: 256"
    )
    parser.add_argument(
        "--rate", type=float, default=0.0, metavar="N", help="at most N inferences a second"
    )


def run(args: Namespace, output: Output) -> int:
    http = Address.parse(args.http, "--http")
    rpc = None if args.grpc is None else Address.parse(args.grpc, "--grpc")
    access = _access(args)
    options = _options(args)
    models: Runtime | Shelf
    with reading(args.bundle):
        is_folder = args.bundle.is_dir() and not (args.bundle / "oci-layout").exists()
    if is_folder:
        models = Shelf(args.bundle, options, ShelfLimits(bytes=args.memory * 1_000_000))
    else:
        models = Runtime.open(args.bundle, options)

    limits = ServeLimits(rate=args.rate, awake_s=AWAKE_S[args.power])
    server = Server(
        models,
        host=http.host,
        port=http.port,
        uds=args.uds or http.uds,
        rpc=rpc,
        access=access,
        limits=limits,
    )
    server.run(lambda server: output.result(*_announcement(models, server, limits)))
    models.close()
    return 0


def _cache(args: Namespace) -> CacheLimits | None:
    if args.cache is None:
        if args.cache_file is not None:
            raise InputError("is needed with --cache-file", where="--cache")
        return None
    return CacheLimits(bytes=args.cache * 1_000_000, store=args.cache_file)


def _announcement(
    models: Runtime | Shelf, server: Server, limits: ServeLimits
) -> tuple[dict[str, Any], str]:
    """What is told when the server answers."""
    found: dict[str, Any] = {"address": server.address}
    at = server.address
    if server.rpc_address:
        found["grpc"] = server.rpc_address
        at += f" and, by gRPC, at {server.rpc_address}"
    if isinstance(models, Shelf):
        names = [f"{info.model} {info.version}" for info in models.infos()]
        infos = msgspec.to_builtins(models.infos())
        text = f"{len(names)} models answer at {at}: {', '.join(names)}"
        return {**found, "models": infos}, text
    info, release = models.info(), models.active
    assert info is not None and release is not None
    found["placement"] = msgspec.to_builtins(place(release, limits))
    text = f"{info.model} {info.version} ({info.artifact}, {info.engine}) answers at {at}"
    return {**found, **msgspec.to_builtins(info)}, text


def _options(args: Namespace) -> RuntimeOptions:
    for name in ("cache", "memory", "rate"):
        value = getattr(args, name)
        if value is not None and value < (0 if name == "rate" else 1):
            raise InputError(f"{value} is too small", where=f"--{name}")
    isolation = None
    if args.isolate:
        from skerry.runtime.engine.isolated import IsolationLimits

        isolation = IsolationLimits()
    return RuntimeOptions(
        artifact=args.artifact,
        engine=engine_of(args),
        measure=Choices(choices_path()) if args.measure else None,
        standby=args.standby,
        isolation=isolation,
        cache=_cache(args),
    )


def _access(args: Namespace) -> Access | None:
    if args.token_file is None and args.tls is None and args.clients_ca is None:
        return None
    token = None
    if args.token_file is not None:
        try:
            with args.token_file.open("rb") as file:
                token = file.read(_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read: {error}", where=args.token_file) from error
    certificate, key = args.tls or (None, None)
    return Access(token=token, certificate=certificate, key=key, clients_ca=args.clients_ca)
