"""The entry point: find the command, import its module, run it, turn an error into an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from skerry.cli.table import COMMANDS, Entry

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["main"]

_BUG, _BAD_INPUT, _INTERRUPTED = 1, 2, 130
_HELP = {"-h", "--help"}
_PACKAGES = {"backports": "backports.zstd"}
"""What to install for a module of another name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the process's exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in _HELP:
        print(_overview())
        return 0
    if words[0] in {"-V", "--version"}:
        from importlib.metadata import version

        print(f"skerry {version('skerry')}")
        return 0
    entry = next((entry for entry in COMMANDS if entry.name == words[0]), None)
    if entry is None:
        names = ", ".join(entry.name for entry in COMMANDS)
        print(f"skerry: no command {words[0]!r}; the commands are: {names}", file=sys.stderr)
        return _BAD_INPUT
    try:
        return _run(entry, words[1:])
    except KeyboardInterrupt:
        print("skerry: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(entry: Entry, words: list[str]) -> int:
    from skerry.devices.errors import MissingExtraError, SkerryError
    from skerry.devices.output import Output

    try:
        module = _load(entry)
        parser = argparse.ArgumentParser(
            prog=f"skerry {entry.name}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(parser)
        _offer_json(parser)
        args = parser.parse_args(words)
        with _naming_the_extra(entry):
            return int(module.run(args, Output(as_json=args.json)))
    except SkerryError as error:
        if isinstance(error, MissingExtraError) and _HELP & set(words):
            print(f"skerry {entry.name}: {entry.help}\n\n{error}")
            return 0
        print(f"skerry {entry.name}: {error}", file=sys.stderr)
        return int(error.exit_code)


def _offer_json(parser: argparse.ArgumentParser) -> None:
    """Give `parser` and every subcommand below it the option `--json`."""
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS if parser.prog.count(" ") > 1 else False,
        help="print one JSON document on stdout",
    )
    for action in parser._actions:  # argparse has no public way to walk its subparsers
        if isinstance(action, argparse._SubParsersAction):
            for child in set(action.choices.values()):
                _offer_json(child)


def _load(entry: Entry) -> ModuleType:
    with _naming_the_extra(entry):
        return import_module(entry.module)


@contextmanager
def _naming_the_extra(entry: Entry) -> Iterator[None]:
    """Where a package is missing, say which extra brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("skerry"):
            raise
        from skerry.devices.errors import MissingExtraError

        package = _PACKAGES.get(missing, missing)
        raise MissingExtraError(entry.extra, missing=package) from error


def _overview() -> str:
    width = max(len(entry.name) for entry in COMMANDS)
    lines = [f"  {entry.name:<{width}}  {entry.help}" for entry in COMMANDS]
    return "\n".join(
        [
            "skerry takes a trained model to a fleet of edge devices and keeps it right there.",
            "",
            "usage: skerry COMMAND [options]        skerry COMMAND --help explains one",
            "",
            *lines,
            "",
            "exit codes: 0 ok · 1 a bug · 2 bad input · 3 a gate failed · 4 trust refused",
            "            5 unavailable, try again",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
