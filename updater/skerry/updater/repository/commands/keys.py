"""Make and keep the signing keys of a release repository.

`skerry keys init` makes a folder with the keys that sign releases. Keep it off the servers and off
the devices: whoever has these keys decides what a fleet runs. The server's own keys, whose public
halves are in its online.json, can only say what is current.

A change of keys (`add`, `revoke`, `threshold`, `online`, `policy`, `renew`) is staged as metadata
that lacks signatures, and signed with the keys that are here. Where more must sign, take the files
of DIR/staged to the holders of the other keys, `skerry keys sign` them there, and bring them back
with `skerry keys merge`. Publish afterwards with `skerry release publish`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from skerry.devices.clock import SystemClock
from skerry.devices.output import Output, table
from skerry.updater.repository.audit import look_over
from skerry.updater.repository.commands import holders
from skerry.updater.repository.commands.asking import (
    new_passphrase,
    offer_passphrase,
    offer_yes,
    read_bounded,
)
from skerry.updater.repository.founding import Holders
from skerry.updater.repository.keys import OnlinePublic
from skerry.updater.repository.offline import OfflineRepository

__all__ = ["configure", "run"]

_TRUST_REFUSED = 4


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `skerry keys`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser(
        "init",
        help="make keys and sign the first roots",
        description="Make keys and sign the first roots of a release repository. Copy the folder "
        "to a safe place: a lost root key cannot be made again.",
    )
    _offer_repo(init)
    _offer_online(init)
    for role in ("root", "targets"):
        init.add_argument(
            f"--{role}-keys", type=int, default=1, metavar="N", help=f"{role} keys to make"
        )
        init.add_argument(
            f"--{role}-threshold",
            type=int,
            default=1,
            metavar="M",
            help=f"{role} keys that must sign",
        )
    offer_passphrase(init)
    make = actions.add_parser("make", help="make one key, for a holder on another machine")
    make.add_argument("key", type=Path, metavar="FILE", help="private; FILE.pub is to be handed on")
    offer_passphrase(make)
    hsm = actions.add_parser("token", help="find a key on a PKCS#11 token, and write its .pub")
    hsm.add_argument("public", type=Path, metavar="FILE.pub", help="what to write")
    hsm.add_argument("--label", required=True, metavar="TEXT", help="the token's label")
    hsm.add_argument("--id", type=int, default=2, metavar="N", help="the key's id on the token")
    _configure_changes(actions)
    _configure_ceremony(actions)


def _configure_changes(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add = actions.add_parser("add", help="let another key sign a role")
    add.add_argument("public", type=Path, metavar="FILE.pub", help="the new key's public half")
    add.add_argument("--key", type=Path, metavar="FILE", help="its private half, if it is here")
    revoke = actions.add_parser("revoke", help="let a key sign no longer")
    revoke.add_argument("keyid", metavar="KEYID", help="the beginning of its id is enough")
    count = actions.add_parser("threshold", help="set how many keys must sign a role")
    count.add_argument("count", type=int, metavar="N")
    for action in (add, revoke, count):
        action.add_argument("--role", choices=("root", "targets"), required=True)
    online = actions.add_parser("online", help="trust another server, or a server's new keys")
    _offer_online(online)
    renew = actions.add_parser("renew", help="sign anew what expires soon")
    renew.add_argument(
        "--within", type=float, default=60.0, metavar="DAYS", help="how soon (60 if not given)"
    )
    policy = actions.add_parser("policy", help="say what expiry means without clock or network")
    policy.add_argument(
        "--clockless", choices=("yes", "no"), required=True, help="may go by signed times alone"
    )
    policy.add_argument(
        "--media-days", type=float, default=0.0, metavar="DAYS", help="grace on carried media"
    )
    for action in (add, revoke, count, online, renew, policy):
        _offer_repo(action)
        offer_passphrase(action)
        offer_yes(action)


def _configure_ceremony(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sign = actions.add_parser("sign", help="sign staged files with a key that is on this machine")
    sign.add_argument("files", type=Path, nargs="+", metavar="FILE", help="copies from DIR/staged")
    sign.add_argument("--key", type=Path, required=True, metavar="KEY", help="key file or .pub")
    offer_passphrase(sign)
    offer_yes(sign)
    merge = actions.add_parser("merge", help="take over signatures that were made elsewhere")
    merge.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the signed copies")
    status = actions.add_parser("status", help="show the keys, and what waits for signatures")
    abandon = actions.add_parser("abandon", help="drop what waits for signatures")
    verify = actions.add_parser("verify", help="verify roots, releases, blobs and expiry")
    for action in (merge, status, abandon, verify):
        _offer_repo(action)


def run(args: argparse.Namespace, output: Output) -> int:
    """Run `skerry keys`."""
    if args.action == "init":
        return _init(args, output)
    if args.action == "verify":
        return _verify(args, output)
    return holders.run(args, output)


def _offer_repo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repo", type=Path, required=True, metavar="DIR", help="the release repository"
    )


def _offer_online(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--online",
        type=Path,
        required=True,
        metavar="FILE",
        help="the server's keys/online.json (`skerry fleet init` makes it)",
    )


def _init(args: argparse.Namespace, output: Output) -> int:
    online = OnlinePublic.decode(read_bounded(args.online), where=args.online)
    holding = Holders(
        args.root_keys, args.root_threshold, args.targets_keys, args.targets_threshold
    )
    secret = new_passphrase(args)
    if secret is None:
        output.note("the key files are not encrypted; keep the folder where nobody else can read")
    OfflineRepository.create(args.repo, online, SystemClock(), holders=holding, passphrase=secret)
    keys = sorted(str(path.relative_to(args.repo)) for path in (args.repo / "keys").iterdir())
    output.result(
        {"repository": str(args.repo), "keys": keys, "encrypted": secret is not None},
        f"made {args.repo} with {', '.join(keys)}; copy it to a safe place",
    )
    return 0


def _verify(args: argparse.Namespace, output: Output) -> int:
    clock = SystemClock()
    findings = look_over(OfflineRepository(args.repo, clock), clock.now())
    good = all(finding.good for finding in findings)
    rows = [["ok" if f.good else "REFUSED", f.what, f.said] for f in findings]
    output.result({"good": good, "findings": findings}, table(["", "what", "found"], rows))
    return 0 if good else _TRUST_REFUSED
