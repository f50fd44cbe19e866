"""Serve a fleet, let devices in, watch it, and roll releases out.

  skerry fleet init --home DIR                  make a fleet
  skerry fleet serve --home DIR                 serve it: HTTP, MQTT, console
  skerry fleet claims create --home DIR --out claim.json
  skerry fleet rollout create digits/2 --home DIR --canary 1 --soak 60 --start
  skerry fleet devices --home DIR
  skerry fleet media --home DIR --device NAME --out /media/stick
  skerry fleet capture NAME --home DIR --repo REPO --model digits --calls 100

All but init and serve speak to a running server: the one of --home, or --server with --token-file.
"""

from __future__ import annotations

import argparse
import logging
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from skerry.devices.clock import SystemClock
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import write_atomically
from skerry.devices.output import Output
from skerry.updater.server import show
from skerry.updater.server.client import FleetClient

if TYPE_CHECKING:
    from skerry.updater.server.serve import TlsChoice

__all__ = ["configure", "run"]

_LEAST_WINDOW_DAYS, _MOST_WINDOW_DAYS = 15, 3650
_VERBS = ("start", "pause", "resume", "abort")


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `skerry fleet`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make a fleet: authority, online keys, database")
    init.add_argument("--home", type=Path, required=True, metavar="DIR")
    init.add_argument("--tenant", default="main", help="whose devices these are (main)")
    init.add_argument("--database", default="", metavar="URL", help="postgresql+psycopg://… ")
    serve = actions.add_parser("serve", help="serve the fleet until SIGTERM or Ctrl-C")
    serve.add_argument("--home", type=Path, required=True, metavar="DIR")
    serve.add_argument("--http", default="127.0.0.1:0", metavar="HOST:PORT")
    serve.add_argument("--mqtt", default="127.0.0.1:0", metavar="HOST:PORT")
    serve.add_argument("--url", default="", help="the URL by which devices reach this server")
    serve.add_argument(
        "--mqtt-url",
        default="",
        metavar="URL",
        help="mqtt://HOST:PORT or mqtts://HOST:PORT by which devices reach the broker",
    )
    serve.add_argument(
        "--tls", type=Path, nargs=2, metavar=("CERT", "KEY"), help="serve by TLS with these (PEM)"
    )
    serve.add_argument(
        "--tls-ca",
        type=Path,
        metavar="PEM",
        help="with --tls: the authority, where devices do not know it",
    )
    serve.add_argument(
        "--tls-fleet",
        action="store_true",
        help="serve by TLS with a certificate of the fleet's own authority",
    )
    serve.add_argument(
        "--plain",
        action="store_true",
        help="beyond this machine without TLS: it ends in front (name --url and --mqtt-url)",
    )
    serve.add_argument(
        "--window-days",
        type=float,
        default=30,
        metavar="N",
        help="how long windows of telemetry are kept; sums stay (30)",
    )
    _configure_asking(actions)
    _configure_rollouts(actions)


def _configure_asking(actions: Any) -> None:
    claims = actions.add_parser("claims", help="let devices in")
    verbs = claims.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a claim: the right to enrol one device once")
    create.add_argument("--out", type=Path, required=True, metavar="FILE", help="for the device")
    create.add_argument("--device", default="", metavar="NAME", help="the id it must take")
    create.add_argument("--minutes", type=float, default=60, help="how long it is good (60)")
    devices = actions.add_parser("devices", help="the fleet, from what its devices sent")
    releases = actions.add_parser("releases", help="what is published")
    events = actions.add_parser("events", help="what happened to updates, newest first")
    events.add_argument("--device", default="", metavar="NAME")
    events.add_argument("--limit", type=int, default=50)
    revoke = actions.add_parser("revoke", help="deny a device from now on")
    revoke.add_argument("device", metavar="NAME")
    media = actions.add_parser("media", help="write a stick for devices without a network")
    media.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the medium")
    media.add_argument("--device", action="append", required=True, metavar="NAME")
    audit = actions.add_parser("audit", help="who did what")
    audit.add_argument("--verify", action="store_true", help="check the chain of digests")
    capture = _configure_capture(actions)
    for parser in (create, devices, releases, events, revoke, media, audit, capture):
        _add_server(parser)


def _configure_capture(actions: Any) -> argparse.ArgumentParser:
    capture: argparse.ArgumentParser = actions.add_parser(
        "capture",
        help="order a device to keep some raw inputs",
        description="Sign, with the keys that sign releases, an order to keep raw inputs and "
        "outputs of a model on a device, and hand it over. The device obeys each order once, "
        "within the order's bounds and its own (64 MiB, a day), for the release that serves then; "
        "what it keeps stays on it, in HOME/captures.",
    )
    capture.add_argument("device", metavar="NAME")
    capture.add_argument("--repo", type=Path, required=True, metavar="DIR", help="with the keys")
    capture.add_argument("--model", required=True, metavar="NAME", help="whose calls are kept")
    capture.add_argument("--calls", type=int, default=100, help="at most so many (100)")
    capture.add_argument("--megabytes", type=float, default=8, help="at most so much (8)")
    capture.add_argument("--minutes", type=float, default=60, help="at most so long (60)")
    capture.add_argument("--every", type=int, default=1, metavar="N", help="one call in N (1)")
    capture.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="file whose first line is the keys' passphrase",
    )
    return capture


def _configure_rollouts(actions: Any) -> None:
    rollout = actions.add_parser("rollout", help="give a release to the fleet, in stages")
    verbs = rollout.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="plan a rollout")
    create.add_argument("release", metavar="MODEL/N")
    create.add_argument("--policy", type=Path, metavar="FILE", help="TOML: stages, thresholds")
    create.add_argument(
        "--canary", metavar="DEVICE|COUNT", help="first this device, or this many, then the rest"
    )
    create.add_argument("--soak", type=float, metavar="SECONDS", help="wait after each stage")
    create.add_argument("--on-failure", choices=["abort", "pause"])
    create.add_argument("--device", action="append", default=[], metavar="NAME", help="only these")
    create.add_argument("--start", action="store_true", help="start it at once")
    _add_server(create)
    _add_server(verbs.add_parser("list", help="every rollout"))
    status = verbs.add_parser("status", help="how far it is")
    status.add_argument("id", metavar="ID")
    _add_server(status)
    wait = verbs.add_parser("wait", help="return when it is done; exit code 3 if it stopped")
    wait.add_argument("id", metavar="ID")
    wait.add_argument("--seconds", type=float, default=600, help="give up after (600)")
    _add_server(wait)
    for verb in _VERBS:
        change = verbs.add_parser(verb, help=f"{verb} it")
        change.add_argument("id", metavar="ID")
        _add_server(change)


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, metavar="DIR", help="of a server on this machine")
    parser.add_argument("--server", default="", metavar="URL")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="an operator's token")
    parser.add_argument(
        "--ca-file", type=Path, metavar="PEM", help="authority of the server's certificate"
    )


def run(args: argparse.Namespace, output: Output) -> int:
    """Run `skerry fleet`."""
    match args.action:
        case "init":
            return _init(args, output)
        case "serve":
            return _serve(args, output)
        case "rollout":
            return _rollout(args, output)
        case "claims":
            return _claim(args, output)
    client = _client(args)
    match args.action:
        case "devices":
            document = client.get("/v1/devices")
            output.result(document, show.devices(document))
        case "releases":
            document = client.get("/v1/releases")
            output.result(document, show.releases(document))
        case "events":
            document = client.get(f"/v1/events?limit={args.limit}&device={quote(args.device)}")
            output.result(document, show.events(document))
        case "revoke":
            document = client.post(f"/v1/devices/{quote(args.device, safe='')}/revoke")
            output.result(document, f"{args.device} is denied from now on")
        case "media":
            from skerry.updater.server.carry import write_stick

            return write_stick(client, args.device, args.out, output)
        case "capture":
            from skerry.updater.server.orders import order_capture

            return order_capture(client, args, output)
        case "audit":
            return _audit(client, args.verify, output)
    return 0


def _init(args: argparse.Namespace, output: Output) -> int:
    from skerry.updater.server.home import FleetSettings, make_home

    settings = FleetSettings(args.tenant, args.database)
    home = make_home(args.home, settings, SystemClock())
    document = {
        "home": str(args.home),
        "tenant": args.tenant,
        "online": str(home.online_file),
        "token_file": str(home.token_file),
    }
    output.result(
        document,
        f"made the fleet {args.tenant!r} in {args.home}\n"
        f"  online keys, for `skerry keys init --online`: {home.online_file}\n"
        f"  operator's token: {home.token_file}\n"
        f"next: skerry fleet serve --home {args.home}",
    )
    return 0


def _serve(args: argparse.Namespace, output: Output) -> int:
    from skerry.devices.enrolment import MqttAddress
    from skerry.updater.server.fleet import ServerLimits
    from skerry.updater.server.home import FleetHome, ServerAddress
    from skerry.updater.server.serve import parse_listen, serve

    if not _LEAST_WINDOW_DAYS <= args.window_days <= _MOST_WINDOW_DAYS:
        raise InputError(
            f"{args.window_days:g} days is not {_LEAST_WINDOW_DAYS} to {_MOST_WINDOW_DAYS}",
            where="--window-days",
            remedy="a device may send a window again for 14 days: keep them longer",
        )

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    http, mqtt = parse_listen(args.http), parse_listen(args.mqtt)
    broker_at = MqttAddress.parse(args.mqtt_url) if args.mqtt_url else None

    def ready(address: ServerAddress) -> None:
        mqtt_text = f"{address.mqtt['host']}:{address.mqtt['port']}"
        output.result(address, f"console and API {address.url}\nMQTT            {mqtt_text}")

    serve(
        FleetHome(args.home),
        http,
        mqtt,
        url=args.url,
        broker_at=broker_at,
        ready=ready,
        tls=_tls(args),
        limits=ServerLimits(window_days=args.window_days),
    )
    return 0


def _tls(args: argparse.Namespace) -> TlsChoice:
    from skerry.updater.server.serve import TlsChoice

    if args.tls and args.tls_fleet:
        raise InputError("--tls and --tls-fleet exclude each other")
    if args.tls_ca and not args.tls:
        raise InputError("--tls-ca goes with --tls CERT KEY")
    ca = _text_of(args.tls_ca) if args.tls_ca else ""
    files = (args.tls[0], args.tls[1], ca) if args.tls else None
    return TlsChoice(files=files, fleet=args.tls_fleet, plain=args.plain)


def _client(args: argparse.Namespace) -> FleetClient:
    """The server to speak to: as named, or the one that runs on --home."""
    if not args.home and not (args.server and args.token_file):
        raise InputError(
            "which server?", remedy="give --home DIR, or --server URL and --token-file FILE"
        )
    url, file = args.server, args.token_file
    ca = _text_of(args.ca_file) if args.ca_file else ""
    if args.home:
        from skerry.updater.server.home import FleetHome

        home = FleetHome(args.home)
        if not url:
            here = home.address()
            url, ca = here.url, ca or here.ca
        file = file or home.token_file
    return FleetClient(url, _text_of(file).strip(), ca)


def _text_of(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read: {error}", where=file) from error


def _claim(args: argparse.Namespace, output: Output) -> int:
    claim = _client(args).post("/v1/claims", {"device": args.device, "minutes": args.minutes})
    write_atomically(args.out, msgspec.json.format(msgspec.json.encode(claim)), mode=0o600)
    text = f"wrote {args.out}, good for one device for {args.minutes:g} minutes"
    output.result({**claim, "out": str(args.out)}, text)
    return 0


def _rollout(args: argparse.Namespace, output: Output) -> int:
    client = _client(args)
    match args.verb:
        case "create":
            body = {"release": args.release, "policy": _policy(args), "targets": args.device}
            document = client.post("/v1/rollouts", {**body, "start": args.start})
        case "list":
            document = client.get("/v1/rollouts")
            output.result(document, show.rollouts(document))
            return 0
        case "wait":
            return _wait(client, args, output)
        case "status":
            document = client.rollout(args.id)
        case verb:
            document = client.rollout(args.id, verb)
    output.result(document, show.rollout(document))
    return 0


def _policy(args: argparse.Namespace) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    if args.policy:
        try:
            policy = tomllib.loads(args.policy.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"cannot read the policy: {error}", where=args.policy) from error
    if args.canary:
        number = args.canary.isascii() and args.canary.isdigit()
        canary = {"count": int(args.canary)} if number else {"devices": [args.canary]}
        rest = {"name": "rest", "percent": 100}
        policy["stages"] = [{"name": "canary", **canary}, rest]
    if args.soak is not None:
        policy["soak_s"] = args.soak
    if args.on_failure:
        policy["on_failure"] = args.on_failure
    return policy


def _wait(client: FleetClient, args: argparse.Namespace, output: Output) -> int:
    from threading import Event

    clock = SystemClock()
    until = clock.monotonic() + args.seconds
    with output.progress(f"rollout {args.id}") as progress:
        while True:
            document = client.rollout(args.id)
            if document["state"] not in ("draft", "running"):
                break
            if clock.monotonic() > until:
                raise UnavailableError(
                    f"still {document['state']}: {document['reason']}", where=f"rollout {args.id}"
                )
            progress.advance(0, f"{document['stage']}: {document['reason']}")
            clock.wait(Event(), 0.2)
    output.result(document, show.rollout(document))
    return 0 if document["state"] == "done" else 3


def _audit(client: FleetClient, verify: bool, output: Output) -> int:
    from skerry.updater.server.audit import verify_chain
    from skerry.updater.server.records import AuditEntry

    entries: list[AuditEntry] = []
    while True:
        after = entries[-1].seq if entries else 0
        page = client.get(f"/v1/audit?after={after}")["entries"]
        if not page:
            break
        entries += msgspec.convert(page, list[AuditEntry])
    if verify:
        count = verify_chain(entries)
        output.result({"entries": count, "intact": True}, f"{count} entries, the chain is whole")
        return 0
    output.result({"entries": entries}, show.audit(entries))
    return 0
