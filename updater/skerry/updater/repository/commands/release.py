"""Sign a bundle as a release, list what is signed, and publish it to a server.

Signing gives the bundle the next counter of its model. A device never goes back to a lower counter,
so to return to an older model on purpose, sign its bundle again: it gets a new counter.

With --encrypt the blobs are sealed under a fresh content key, which only enrolled devices (and the
server, which wraps it for them) can open. The key lies in REPO/content: keep a copy with the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tuf.api.metadata import Targets

from skerry.devices.clock import SystemClock
from skerry.devices.errors import InputError
from skerry.devices.ids import ReleaseId
from skerry.devices.output import Output, human_bytes, table
from skerry.updater.fetch import HttpFetcher, plainly
from skerry.updater.repository.commands.asking import (
    confirm,
    offer_passphrase,
    offer_yes,
    passphrase_of,
)
from skerry.updater.repository.locking import changing
from skerry.updater.repository.offline import OfflineRepository
from skerry.updater.repository.releases import withdrawn
from skerry.updater.repository.staging import Staging
from skerry.updater.repository.upload import publish

__all__ = ["configure", "run"]

_WAITS = "waits for further signatures (`skerry keys status`)"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `skerry release`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    sign = actions.add_parser("sign", help="sign a bundle as the next release of its model")
    sign.add_argument("bundle", type=Path, metavar="BUNDLE", help="an OCI layout folder")
    sign.add_argument(
        "--version",
        metavar="TEXT",
        help="what people call it (the bundle's own version if not given)",
    )
    sign.add_argument(
        "--encrypt",
        action="store_true",
        help="seal its blobs: servers, disks and networks hold nothing that can be read",
    )
    withdraw = actions.add_parser("withdraw", help="take a release back; no device gets it then")
    withdraw.add_argument("release", metavar="MODEL/N")
    listing = actions.add_parser("list", help="show what is signed")
    publishing = actions.add_parser("publish", help="upload what is signed to a server")
    publishing.add_argument("--server", required=True, metavar="URL", help="the fleet server")
    publishing.add_argument(
        "--token-file", type=Path, required=True, metavar="FILE", help="holds an operator's token"
    )
    publishing.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="authority of the server's certificate"
    )
    publishing.add_argument(
        "--everything", action="store_true", help="upload the blobs of every release again"
    )
    for action in (sign, withdraw, listing, publishing):
        action.add_argument(
            "--repo", type=Path, required=True, metavar="DIR", help="the repository"
        )
    for action in (sign, withdraw):
        offer_passphrase(action)
    offer_yes(withdraw)


def run(args: argparse.Namespace, output: Output) -> int:
    """Run `skerry release`."""
    if args.action == "list":
        return _list(args, output)
    actions = {"sign": _sign, "withdraw": _withdraw, "publish": _publish}
    with changing(args.repo, output.note):
        return actions[args.action](args, output)


def _sign(args: argparse.Namespace, output: Output) -> int:
    clock = SystemClock()
    repository = OfflineRepository(
        args.repo, clock, passphrase=passphrase_of(args), tell=output.note
    )
    release, targets = repository.new_release(
        args.bundle, version=args.version, sealed=args.encrypt
    )
    waiting = [] if targets is None else _signed(Staging(repository, clock), targets)
    output.result(
        {**release.document(), "waiting": waiting},
        f"{release.id} ({release.version}), manifest {release.manifest.digest.short}…, "
        + ("sealed, " if release.key else "")
        + (_WAITS if waiting else "is signed"),
    )
    return 0


def _withdraw(args: argparse.Namespace, output: Output) -> int:
    clock = SystemClock()
    repository = OfflineRepository(
        args.repo, clock, passphrase=passphrase_of(args), tell=output.note
    )
    release, targets = ReleaseId.parse(args.release), repository.next_targets()
    withdrawn(targets, release)
    said = [f"{release} is no longer signed; its number is never given again"]
    confirm(args, output, "A device that is assigned it refuses, and keeps what it runs.", said)
    waiting = _signed(Staging(repository, clock), targets)
    state = _WAITS if waiting else "is withdrawn; publish to make it so"
    output.result({"withdrawn": str(release), "waiting": waiting}, f"{release} {state}")
    return 0


def _signed(staging: Staging, targets: Targets) -> list[str]:
    """Sign `targets` with the keys that are here; what still waits for other signatures."""
    staging.release(targets)
    try:
        staging.sign()
    except BaseException:
        staging.abandon()
        raise
    staging.finish()
    return staging.names()


def _list(args: argparse.Namespace, output: Output) -> int:
    repository = OfflineRepository(args.repo, SystemClock())
    releases = repository.releases()
    expires = f"{repository.targets().expires:%Y-%m-%d}"
    rows = [
        [r.id, r.version, r.manifest.digest.short + "…", "sealed" if r.key else "plain"]
        for r in releases
    ]
    output.result(
        {"releases": [release.document() for release in releases], "expires": expires},
        table(["release", "version", "manifest", "blobs"], rows)
        + f"\nthe signature lasts until {expires}",
    )
    return 0


def _publish(args: argparse.Namespace, output: Output) -> int:
    repository = OfflineRepository(args.repo, SystemClock())
    token = _token(args.token_file)
    http = HttpFetcher(authorize=lambda: f"Bearer {token}", ca_file=args.ca_file)
    try:
        with plainly(), output.progress("publishing") as progress:
            done = publish(
                repository, args.server, http, everything=args.everything, tell=progress.advance
            )
    finally:
        http.close()
    names = ", ".join(f"{r.get('model')}/{r.get('counter')}" for r in done.releases)
    output.result(
        {"releases": list(done.releases), "blobs": done.blobs, "bytes": done.sent_bytes},
        f"sent {done.blobs} blobs, {human_bytes(done.sent_bytes)}; "
        + (f"the server took {names}" if names else "the server had everything already"),
    )
    return 0


def _token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise InputError(f"cannot read the token: {error.strerror}", where=path) from error
    if not token or not token.isascii() or any(sign.isspace() for sign in token):
        raise InputError("holds no token", where=path)
    return token
