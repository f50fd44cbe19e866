"""What these commands ask of the person at the terminal: passphrases, and a yes before a danger."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from skerry.devices.errors import CancelledError, InputError
from skerry.devices.output import Output
from skerry.updater.repository.signers import Passphrase

__all__ = [
    "confirm",
    "new_passphrase",
    "offer_passphrase",
    "offer_yes",
    "passphrase_of",
    "read_bounded",
]

_FILE_BYTES = 8 << 20


def offer_passphrase(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the option `--passphrase-file`."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="file whose first line is the passphrase or PIN of the keys (asked for otherwise)",
    )


def offer_yes(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the option `--yes`."""
    parser.add_argument("--yes", action="store_true", help="do not ask before signing")


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


def new_passphrase(args: argparse.Namespace) -> str | None:
    """The passphrase for keys about to be made; None for none."""
    if args.passphrase_file is not None:
        return _first_line(args.passphrase_file)
    if not sys.stdin.isatty():
        return None
    first = getpass.getpass("passphrase for the new keys (empty for none): ")
    if first and getpass.getpass("once more: ") != first:
        raise InputError("the two passphrases differ", remedy="try again")
    return first or None


def confirm(args: argparse.Namespace, output: Output, question: str, said: Sequence[str]) -> None:
    """Explain a step that is hard to take back, and go on only if it is meant.

    Raises:
        CancelledError: the answer was not yes.
        InputError: nobody can be asked, and `--yes` was not given.
    """
    for line in said:
        output.note(f"  · {line}")
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} Nobody can be asked here", remedy="give --yes if it is meant")
    output.note(f"{question} Type yes to go on:")
    if sys.stdin.readline().strip() != "yes":
        raise CancelledError("nothing was changed")


def read_bounded(path: Path) -> bytes:
    """The bytes of a small file.

    Raises:
        InputError: it cannot be read, or is too long to be meant.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=path) from error
    if len(data) > _FILE_BYTES:
        raise InputError(f"more than {_FILE_BYTES} bytes", where=path)
    return data


def _first_line(path: Path) -> str:
    lines = read_bounded(path).decode("utf-8", "replace").splitlines()
    if not lines or not lines[0]:
        raise InputError("holds no passphrase", where=path)
    return lines[0]
