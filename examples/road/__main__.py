"""The whole road on this machine: train, convert, sign, enrol, roll out, attack, watch.

Everything is run, nothing simulated: the commands are those an engineer and an operator use, the
devices are processes of their own, and each line that is printed was measured or received.
"""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

import msgspec
from examples.road import building, fleet
from examples.road.processes import Children, CommandFailed
from examples.road.stage import Stage

from skerry.bench.machine import read_machine
from skerry.devices.errors import ExitCode
from skerry.devices.files import write_atomically

_ROOT = Path(__file__).resolve().parents[2]
_INTERRUPTED = 130


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=_ROOT / "out" / "demo")
    parser.add_argument("--keep", action="store_true", help="leave the fleet running")
    parser.add_argument("--record", type=Path, help="keep what was printed, as JSON, in this file")
    args = parser.parse_args()
    work: Path = args.out.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    stage = Stage()
    children = Children(work)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    finished = False
    try:
        _walk(stage, children, work)
        if args.record:
            _record(stage, args.record)
        if args.keep:
            fleet.stay(stage, work)
        finished = True
        return 0
    except CommandFailed as failure:
        stage.failed(f"{failure}\nthe logs are in {work / 'logs'}")
        finished = True  # the logs are what a person needs now
        return failure.code
    except (TimeoutError, AssertionError) as failure:
        stage.failed(f"{failure}; the logs are in {work / 'logs'}")
        finished = True
        return ExitCode.BUG
    except KeyboardInterrupt:
        stage.failed("interrupted")
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping is quick and must be whole
        children.stop_all()
        if not finished:
            shutil.rmtree(work, ignore_errors=True)


def _walk(stage: Stage, children: Children, work: Path) -> None:
    stage.title("skerry: the whole road, once")
    teacher = building.train_teacher(stage, children, work)
    first = building.convert_first(stage, children, work, teacher)
    server = fleet.serve(stage, children, work, first)
    devices = fleet.enrol(stage, children, work, server)
    fleet.deliver_first(stage, children, server)
    with fleet.calling(stage, devices):
        fleet.watch_drift(stage, children, server, devices)
        second = building.convert_second(stage, children, work, first)
        fleet.roll_out_second(stage, children, server, devices, second)
        third = building.damage(work, second)
        fleet.attack(stage, children, server, third)
        fleet.refuse_bad_release(stage, children, server)
    fleet.show(stage, children, server)
    building.show(stage, teacher, first, second)
    report = os.path.relpath(first.folder / "report.html")
    stage.done(f"the whole road in {stage.seconds:.0f} s; the report of version 1: {report}")


def _record(stage: Stage, path: Path) -> None:
    """Keep the transcript, with the machine it was printed on."""
    record = {"machine": read_machine(), "transcript": stage.transcript}
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
