"""A sensor loop that embeds the runtime: a line of numbers in, a line of JSON out.

    python examples/gateway/loop.py BUNDLE < readings.csv

Each line on stdin holds the values of one row of the model's only input, separated by commas, as a
serial port or `mosquitto_sub` gives them. SIGHUP takes the bundle in again, without missing a
reading: one that does not pass its golden test is turned down, and the old one goes on.
"""

import json
import signal
import sys
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
    """One reading as a batch of one row."""
    values = np.array([float(text) for text in line.split(",")])
    return values.astype(dtype).reshape(1, *shape[1:])


def main(path: Path) -> int:
    options = RuntimeOptions(session=SessionLimits(rows=1))
    runtime = Runtime.open(path, options)
    signal.signal(signal.SIGHUP, lambda *_: reload(runtime, path))
    for line in sys.stdin:
        info = runtime.info()
        (spec,) = info.inputs
        try:
            answer = runtime.answer({spec.name: row_of(line, spec.shape, spec.dtype)})
        except (SkerryError, ValueError) as error:
            print(json.dumps({"error": str(error)}), flush=True)
            continue
        scores = next(iter(answer.outputs.values()))[0]
        best = int(scores.argmax())
        label = info.labels[best] if info.labels else best
        result = {"label": label, "score": float(scores[best])}
        print(json.dumps(result | {"version": answer.release.card.version}), flush=True)
    runtime.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except SkerryError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))
