"""Make and keep the signing keys of a release repository.

`skerry keys init` makes a folder with the keys that sign releases. Keep it off the servers and off
the devices: whoever has these keys decides what a fleet runs. The server's own keys, whose public
halves are in its online.json, can only say what is current.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from skerry.devices.clock import SystemClock
from skerry.devices.errors import InputError
from skerry.devices.output import Output
from skerry.updater.repository.keys import OnlinePublic, Passphrase
from skerry.updater.repository.offline import Ceremony, OfflineRepository

__all__ = ["configure", "offer_passphrase", "passphrase_of", "run"]

_FILE_BYTES = 65_536


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `skerry keys`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser(
        "init",
        help="make keys and sign the first roots",
        description="Make keys and sign the first roots of a release repository. Copy the folder "
        "to a safe place: a lost root key cannot be made again.",
    )
    init.add_argument("--repo", type=Path, required=True, metavar="DIR", help="where to make it")
    init.add_argument(
        "--online",
        type=Path,
        required=True,
        metavar="FILE",
        help="the server's keys/online.json (`skerry fleet init` makes it)",
    )
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


def offer_passphrase(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the option `--passphrase-file`."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="file whose first line is the passphrase of the key files (asked for otherwise)",
    )


def passphrase_of(args: argparse.Namespace) -> Passphrase:
    """How an encrypted key is opened: by the file named, or by asking on the terminal."""

    def ask(path: Path) -> str:
        if args.passphrase_file is not None:
            return _first_line(args.passphrase_file)
        if not sys.stdin.isatty():
            raise InputError(
                "the key is encrypted", where=path, remedy="give --passphrase-file FILE"
            )
        return getpass.getpass(f"passphrase of {path}: ")

    return ask


def run(args: argparse.Namespace, output: Output) -> int:
    """Run `skerry keys`."""
    return _init(args, output)


def _init(args: argparse.Namespace, output: Output) -> int:
    online = OnlinePublic.decode(_read(args.online), where=args.online)
    ceremony = Ceremony(
        args.root_keys, args.root_threshold, args.targets_keys, args.targets_threshold
    )
    secret = _new_passphrase(args)
    if secret is None:
        output.note(
            "the key files are not encrypted; keep the folder where nobody else can read it"
        )
    repository = OfflineRepository.create(
        args.repo, online, SystemClock(), ceremony=ceremony, passphrase=secret
    )
    keys = sorted(str(path.relative_to(args.repo)) for path in (args.repo / "keys").iterdir())
    output.result(
        {"repository": str(repository.folder), "keys": keys, "encrypted": secret is not None},
        f"made {args.repo} with {', '.join(keys)}; copy it to a safe place",
    )
    return 0


def _new_passphrase(args: argparse.Namespace) -> str | None:
    if args.passphrase_file is not None:
        return _first_line(args.passphrase_file)
    if not sys.stdin.isatty():
        return None
    first = getpass.getpass("passphrase for the new keys (empty for none): ")
    if first and getpass.getpass("once more: ") != first:
        raise InputError("the two passphrases differ", remedy="try again")
    return first or None


def _first_line(path: Path) -> str:
    lines = _read(path).decode("utf-8", "replace").splitlines()
    if not lines or not lines[0]:
        raise InputError("holds no passphrase", where=path)
    return lines[0]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES)
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=path) from error
