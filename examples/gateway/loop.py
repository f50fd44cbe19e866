"""A sensor loop that embeds the runtime: a line of numbers in, a line of JSON out.

    python examples/gateway/loop.py BUNDLE < readings.csv
    python examples/gateway/loop.py BUNDLE /run/skerry-gateway/readings

Each line on stdin, or in a FIFO that it makes where one is named, holds the values of one row of
the model's only input, separated by commas, as a serial port or `mosquitto_sub` gives them. The
answer is the best score and its label, or the only score, of the first output. A line that cannot
be answered (no numbers, a value the input's type cannot hold, a score that is not finite) gets
`{"error": …}`, and the loop goes on.

SIGHUP takes the bundle in again, without missing a reading: one that does not pass its golden test
is turned down, and the old one goes on. Under systemd (`Type=notify`) it says when it is ready.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skerry.devices.errors import SkerryError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime
from skerry.runtime.session import SessionLimits


def reload(runtime: Runtime, path: Path) -> None:
    """Put the bundle at `path` into service, or say why not."""
    try:
        runtime.activate(runtime.prepare(Bundle.open(path)))
    except SkerryError as error:
        print(f"kept the old release: {error}", file=sys.stderr)
    else:
        print(f"serving {runtime.info().version}", file=sys.stderr)


def row_of(line: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """One reading as a batch of one row.

    Raises:
        ValueError: it is not numbers, too many or few, or the type cannot hold one of them, as
            300 in a uint8 or 0.5 in an int64. NaN in a float is left for the runtime to refuse.
    """
    values = np.array([float(text) for text in line.split(",")])
    with np.errstate(invalid="ignore", over="ignore"):  # looked for below
        row = values.astype(dtype)
    if row.dtype.kind == "f":  # may round, but not overflow
        kept = np.isfinite(row) == np.isfinite(values)
    else:  # from 2**53 on, float() has rounded already
        kept = (row == values) & (np.abs(values) < 2**53)
    if not kept.all():
        raise ValueError(f"{values[~kept][0]} does not fit {dtype}")
    return row.reshape(1, *shape[1:])


def answer(runtime: Runtime, line: str) -> dict[str, object]:
    """What to say to one reading."""
    try:
        (spec,) = runtime.info().inputs
        found = runtime.answer({spec.name: row_of(line, spec.shape, spec.dtype)})
        scores = np.ravel(next(iter(found.outputs.values()))).astype(float)
        best = int(scores.argmax())
        if not np.isfinite(scores[best]):
            raise ValueError(f"the score is {scores[best]}")
    except (SkerryError, ValueError, TypeError) as error:
        return {"error": str(error)}
    card = found.release.card
    told = {"score": float(scores[best]), "version": card.version}
    if len(scores) > 1:
        told["label"] = card.labels[best] if best < len(card.labels) else best
    return told


def readings(fifo: Path | None) -> Iterator[str]:
    """Lines of stdin until it ends, or of a FIFO for good, whoever writes to it."""
    if fifo is None:
        sys.stdin.reconfigure(errors="replace")
        yield from sys.stdin
        return
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo, 0o620)
    # Opened for writing too, so that it never ends when a writer leaves.
    with os.fdopen(os.open(fifo, os.O_RDWR), "r", encoding="utf-8", errors="replace") as lines:
        notify("READY=1")
        yield from lines


def notify(state: str) -> None:
    """Tell systemd, where it started us."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address.replace("@", "\0", 1))


def main(path: Path, fifo: Path | None) -> int:
    runtime = Runtime.open(path, RuntimeOptions(session=SessionLimits(rows=1)))
    signal.signal(signal.SIGHUP, lambda *_: reload(runtime, path))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for line in readings(fifo):
        print(json.dumps(answer(runtime, line)), flush=True)
    runtime.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None))
    except SkerryError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))
