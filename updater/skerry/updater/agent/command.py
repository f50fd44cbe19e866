"""Enrol this device and keep its model right.

    skerry agent enrol --home DIR --claim FILE     join a fleet with a claim file from its operator
    skerry agent run --home DIR                    serve the model, keep it up to date
    skerry agent update --home DIR --media FOLDER  update from a folder that was carried here
    skerry agent status --home DIR                 what this device holds, and what it is doing

`run` serves the release that is here at once, without a network. HOME/runtime.address says where.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from skerry.devices.output import Output

if TYPE_CHECKING:
    from skerry.updater.agent.parts import AgentLimits
    from skerry.updater.agent.update import UpdateLimits

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    enrol = actions.add_parser("enrol", help="join a fleet with a claim file")
    _home(enrol)
    enrol.add_argument("--claim", type=Path, required=True, help="the claim file")
    enrol.add_argument("--server", help="the server's URL, if not the claim file's")
    enrol.add_argument("--name", default="", help="the device id wished for")
    enrol.add_argument(
        "--http", default="127.0.0.1:0", metavar="HOST:PORT", help="where to serve the model"
    )

    serve = actions.add_parser("run", help="serve the model and keep it up to date")
    _home(serve)
    serve.add_argument("--http", metavar="HOST:PORT", help="where to serve, if not as enrolled")
    serve.add_argument("--poll", type=float, metavar="SECONDS", help="seconds between two looks")
    serve.add_argument(
        "--window", type=float, default=60.0, metavar="SECONDS", help="length of a telemetry window"
    )
    _trial(serve)
    serve.add_argument(
        "--quota", type=int, default=2 << 30, metavar="BYTES", help="most bytes the store may take"
    )
    serve.add_argument(
        "--rate", type=int, default=0, metavar="BYTES", help="most bytes fetched a second; 0: any"
    )
    serve.add_argument(
        "--hours", action="append", default=[], metavar="HH:MM-HH:MM", help="fetch only then (UTC)"
    )
    serve.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # the inherited socket
    serve.add_argument("--parent", type=int, help=argparse.SUPPRESS)

    update = actions.add_parser("update", help="update from a folder that was carried here")
    _home(update)
    update.add_argument("--media", type=Path, required=True, help="the folder")
    _trial(update)

    status = actions.add_parser("status", help="say what this device holds")
    _home(status)


def run(args: argparse.Namespace, output: Output) -> int:
    """Do what was asked for."""
    if args.action == "enrol":
        from skerry.updater.agent.joining import join

        return join(args, output)
    if args.action == "status":
        from skerry.updater.agent.status import show

        return show(args.home, output)
    if args.action == "update":
        return _update(args, output)
    if args.worker is not None:
        return _work(args)
    return _supervise(args)


def _home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, required=True, help="the device's folder")


def _trial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trial", type=float, default=10.0, metavar="SECONDS", help="length of a release's trial"
    )
    parser.add_argument(
        "--trial-latency",
        type=float,
        default=3.0,
        metavar="TIMES",
        help="how many times as long as before calls may take on trial (3); 0 does not judge",
    )
    parser.add_argument(
        "--trial-agreement",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of answers on trial that must be the previous release's; 0 does not ask",
    )


def _supervise(args: argparse.Namespace) -> int:
    from skerry.devices.enrolment import AgentSettings
    from skerry.updater.agent.log import Log
    from skerry.updater.agent.schedule import Hours
    from skerry.updater.agent.supervise import supervise

    settings = AgentSettings.load(args.home)

    def worker(number: int) -> list[str]:
        words = [sys.executable, "-m", "skerry.cli.main", "agent", "run", f"--home={args.home}"]
        words += [
            f"--worker={number}",
            f"--parent={os.getpid()}",
            f"--window={args.window}",
            f"--trial={args.trial}",
            f"--trial-latency={args.trial_latency}",
            f"--trial-agreement={args.trial_agreement}",
        ]
        words += [f"--quota={args.quota}", f"--rate={args.rate}"]
        words += [f"--poll={args.poll or settings.poll_s}"]
        return words + [f"--hours={hours}" for hours in args.hours]

    for hours in args.hours:
        Hours.parse(hours)
    return supervise(args.home, args.http or settings.http, worker, log=Log())


def _work(args: argparse.Namespace) -> int:
    import socket
    from threading import Event

    from skerry.updater.agent.supervise import die_with_parent, on_signals

    die_with_parent(args.parent)
    stop = Event()
    limits = _limits(args)
    from skerry.updater.agent.process import AgentProcess

    process = AgentProcess(args.home, stop=stop, limits=limits)

    def end() -> None:
        stop.set()
        process.wake()

    on_signals(end, process.wake)
    with socket.socket(fileno=args.worker) as listener:
        process.run(listener)
    return 0


def _update(args: argparse.Namespace, output: Output) -> int:
    from threading import Event

    from skerry.devices.errors import ExitCode
    from skerry.devices.lock import exclusive, is_held
    from skerry.updater.agent.media import ask_for

    if is_held(args.home / "agent.lock"):
        ask_for(args.home, args.media, int((args.home / "worker.pid").read_text()))
        output.result(
            {"outcome": "asked"}, "the agent that runs here was asked; see: skerry agent status"
        )
        return 0
    from skerry.updater.agent.parts import AgentLimits
    from skerry.updater.agent.process import AgentProcess

    limits = AgentLimits(update=_trial_limits(args))
    with exclusive(args.home / "agent.lock"):
        process = AgentProcess(args.home, stop=Event(), limits=limits)
        outcome = process.update_once(args.media)
    output.result({"outcome": outcome}, outcome)
    return int(ExitCode.GATE_FAILED if outcome == "failed" else ExitCode.OK)


def _trial_limits(args: argparse.Namespace) -> UpdateLimits:
    from skerry.updater.agent.health import HealthLimits
    from skerry.updater.agent.update import UpdateLimits

    health = HealthLimits(
        seconds=args.trial, latency_ratio=args.trial_latency, agreement=args.trial_agreement
    )
    return UpdateLimits(health=health)


def _limits(args: argparse.Namespace) -> AgentLimits:
    from skerry.updater.agent.download import DownloadLimits
    from skerry.updater.agent.parts import AgentLimits
    from skerry.updater.agent.schedule import Hours, ScheduleLimits
    from skerry.updater.store.store import StoreLimits

    return AgentLimits(
        schedule=ScheduleLimits(poll_s=args.poll),
        download=DownloadLimits(
            bytes_per_s=args.rate, hours=tuple(Hours.parse(hours) for hours in args.hours)
        ),
        update=_trial_limits(args),
        store=StoreLimits(quota_bytes=args.quota),
        window_s=args.window,
    )
