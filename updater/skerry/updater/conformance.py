"""A client for outside conformance suites, with exactly the trust code that devices use.

    python -m skerry.updater.conformance --metadata-dir D init TRUSTED_ROOT
    python -m skerry.updater.conformance --metadata-dir D --metadata-url U refresh
    python -m skerry.updater.conformance --metadata-dir D --metadata-url U \\
        --target-name N --target-base-url B --target-dir T download

`init` copies the root and asks nobody. `--target-name` may be given several times: the targets are
fetched in that order with one client, up to the first failure; one that is there already with the
right hash is not fetched again. Exit code 0 on success, 1 on any failure or refusal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile

from skerry.devices.clock import SystemClock
from skerry.devices.errors import InputError, SkerryError, TrustError
from skerry.devices.files import write_atomically
from skerry.updater.fetch import HttpFetcher, fetch_bytes
from skerry.updater.trust.client import RepositoryClient, TrustLimits

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 on success and 1 on any failure."""
    args = _parser().parse_args(arguments)
    try:
        if args.command == "init":
            _init(args)
        elif args.command == "refresh":
            _client(args, HttpFetcher()).refresh()
        else:
            _download(args)
    except (SkerryError, OSError) as error:
        sys.stderr.write(f"{args.command}: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m skerry.updater.conformance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--metadata-dir", type=Path, required=True, metavar="D")
    parser.add_argument("--metadata-url", metavar="U")
    parser.add_argument("--target-name", action="append", default=[], metavar="N")
    parser.add_argument("--target-base-url", metavar="B")
    parser.add_argument("--target-dir", type=Path, metavar="T")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    commands.add_parser("init").add_argument("trusted_root", type=Path, metavar="TRUSTED_ROOT")
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


def _init(args: argparse.Namespace) -> None:
    """The root is judged at its first use, as it is on a device."""
    args.metadata_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(args.metadata_dir / "root.json", args.trusted_root.read_bytes())


def _client(args: argparse.Namespace, fetcher: HttpFetcher) -> RepositoryClient:
    if not args.metadata_url:
        raise InputError("needs --metadata-url")
    return RepositoryClient(args.metadata_dir, fetcher, url=args.metadata_url, clock=SystemClock())


def _download(args: argparse.Namespace) -> None:
    if not args.target_name or not args.target_base_url or args.target_dir is None:
        raise InputError("needs --target-name, --target-base-url and --target-dir")
    fetcher = HttpFetcher()
    client = _client(args, fetcher)
    prefixed = bool(client.refresh().root.consistent_snapshot)
    args.target_dir.mkdir(parents=True, exist_ok=True)
    for name in args.target_name:
        target = client.target(name)
        if target is None:
            raise InputError("no such target", where=name)
        place = args.target_dir / quote(name, safe="")
        if place.is_file() and _matches(target, place.read_bytes()):
            continue
        url = args.target_base_url.rstrip("/") + "/" + _address(target, prefixed=prefixed)
        if not 0 <= target.length <= TrustLimits().targets_bytes * 1_000:
            raise TrustError(f"a target of {target.length} bytes", where=name)
        data = fetch_bytes(fetcher, url, target.length)
        if not _matches(target, data):
            raise TrustError("is not what was signed: wrong length or hash", where=url)
        write_atomically(place, data)


def _address(target: TargetFile, *, prefixed: bool) -> str:
    """Where a target lies: its name behind its hash, where snapshots are consistent."""
    return target.get_prefixed_paths()[0] if prefixed else target.path


def _matches(target: TargetFile, data: bytes) -> bool:
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
