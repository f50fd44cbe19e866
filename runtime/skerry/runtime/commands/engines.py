"""How a command lets people say what an engine may take of the machine."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

from skerry.devices.cpus import usable_cpus
from skerry.devices.errors import InputError
from skerry.runtime.engine.base import EngineOptions
from skerry.runtime.power import POWER_MODES, engine_options

__all__ = ["add_engine_arguments", "choices_path", "engine_of", "parse_cpus"]

_MOST_CPUS = 4096


def add_engine_arguments(parser: ArgumentParser) -> None:
    """`--power`, `--threads`, `--cpus` and `--provider`."""
    parser.add_argument(
        "--power",
        choices=POWER_MODES,
        default="balanced",
        help="what matters most; default: balanced, one thread a call",
    )
    parser.add_argument("--threads", type=int, help="of the engine, instead of the power mode's")
    parser.add_argument("--cpus", metavar="0,2-3", help="where they run")
    parser.add_argument(
        "--provider",
        action="append",
        default=[],
        metavar="NAME",
        help="an execution provider of ONNX Runtime to prefer to the CPU; may be repeated",
    )


def engine_of(args: Namespace) -> EngineOptions:
    """What the arguments say.

    Raises:
        InputError: they say what cannot be.
    """
    options = engine_options(args.power, usable_cpus())
    if args.threads is not None:
        if args.threads < 1:
            raise InputError(f"{args.threads} is too small", where="--threads")
        options = replace(options, threads=args.threads)
    if args.cpus is not None:
        options = replace(options, cpus=parse_cpus(args.cpus))
    return replace(options, providers=tuple(args.provider))


def parse_cpus(text: str) -> tuple[int, ...]:
    """`0,2-3` → 0, 2, 3, as `taskset` and cpusets write it.

    Raises:
        InputError: it is no list of CPUs.
    """
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        high = high if dash else low
        if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high) < _MOST_CPUS):
            raise InputError(f"{text[:80]!r} is no list of CPUs", where="--cpus", remedy="as 0,2-3")
        found.update(range(int(low), int(high) + 1))
    return tuple(sorted(found))


def choices_path() -> Path:
    """Where this user's measured choices are remembered: systemd's folder, or the user's own."""
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if not folder:
        state = os.environ.get("XDG_STATE_HOME", "")
        folder = f"{state or Path.home() / '.local' / 'state'}/skerry"
    return Path(folder) / "measured.json"
