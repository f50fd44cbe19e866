"""In process: what `predict` costs over the bare session, how soon ready, how much memory.

    python hw-bench/plans/runtime_inprocess.py [--rounds 30] [--out hw-bench/results/x.json]

Calls of `session.run` and of `predict` are interleaved in short runs on the same session.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from fakes.bundles import make_bundle  # noqa: E402
from skerry.bench.machine import read_machine, read_now  # noqa: E402
from skerry.runtime.runtime import Runtime  # noqa: E402

CALLS = 300


def sample(call, calls=CALLS):
    """Nanoseconds of each of `calls` calls."""
    took = np.empty(calls)
    clock = time.perf_counter_ns
    for index in range(calls):
        began = clock()
        call()
        took[index] = clock() - began
    return took


def microseconds(parts):
    taken = np.concatenate(parts) / 1e3
    return {
        "p50": round(float(np.percentile(taken, 50)), 2),
        "p99": round(float(np.percentile(taken, 99)), 2),
    }


def overhead(bundle, rounds):
    runtime = Runtime.open(bundle)
    session = runtime.active._engine._session
    x = np.ones((1, 4), np.float32)
    calls = {
        "session.run": lambda: session.run(["out"], {"in": x}),
        "predict": lambda: runtime.predict({"x": x}),
    }
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(sample(call))
    result = {name: microseconds(parts) for name, parts in found.items()}
    result["overhead"] = {
        key: round(result["predict"][key] - result["session.run"][key], 2) for key in ("p50", "p99")
    }
    return result


def deadlines(bundle, rounds):
    """What a deadline that never comes costs a call."""
    runtime = Runtime.open(bundle)
    x = np.ones((1, 4), np.float32)
    calls = {
        "predict": lambda: runtime.predict({"x": x}),
        "predict with a deadline": lambda: runtime.predict({"x": x}, until=time.monotonic() + 30),
    }
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(sample(call))
    return {name: microseconds(parts) for name, parts in found.items()}


READY = """
import sys, time
from pathlib import Path
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.server import Server
runtime = Runtime.open(Path(sys.argv[1]))
server = Server(runtime)
server.start()
print(time.time(), flush=True)
text = Path("/proc/self/smaps_rollup").read_text()
kib = sum(int(l.split()[1]) for l in text.splitlines() if l.startswith("Private_"))
print(kib, len(sys.modules), flush=True)
server.stop()
"""
EMBEDDED = """
import sys
from pathlib import Path
import numpy
from skerry.runtime.runtime import Runtime
runtime = Runtime.open(Path(sys.argv[1]))
runtime.predict({"x": numpy.ones((1, 4), numpy.float32)})
text = Path("/proc/self/smaps_rollup").read_text()
print(sum(int(l.split()[1]) for l in text.splitlines() if l.startswith("Private_")))
"""
BARE = """
import sys
from pathlib import Path
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
session.run(None, {session.get_inputs()[0].name: numpy.ones((1, 4), numpy.float32)})
text = Path("/proc/self/smaps_rollup").read_text()
print(sum(int(l.split()[1]) for l in text.splitlines() if l.startswith("Private_")))
"""


def start(bundle, model, rounds):
    """Seconds from exec to an answering server, and private memory beyond the engine's own."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    seconds, serving, embedded, bare = [], [], [], []
    for _ in range(rounds):
        began = time.time()
        command = [sys.executable, "-c", READY, str(bundle)]
        out = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
        at, kib = out.decode().split()[:2]
        seconds.append(float(at) - began)
        serving.append(int(kib) / 1024)
        for code, what, found in ((EMBEDDED, bundle, embedded), (BARE, model, bare)):
            command = [sys.executable, "-c", code, str(what)]
            out = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
            found.append(int(out) / 1024)
    own = statistics.median(bare)
    return {
        "ready_s": {
            "median": round(statistics.median(seconds), 3),
            "least": round(min(seconds), 3),
        },
        "private_mib": {
            "bare engine": round(own, 1),
            "in process": round(statistics.median(embedded), 1),
            "beyond, in process": round(statistics.median(embedded) - own, 1),
            "serving": round(statistics.median(serving), 1),
            "beyond, serving": round(statistics.median(serving) - own, 1),
        },
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "hw-bench/results/runtime_inprocess.json"
    )
    args = parser.parse_args()
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle = make_bundle(work / "b")
        result = {
            "what": "in process; microseconds unless said otherwise",
            "machine": msgspec.to_builtins(read_machine()),
            "before": msgspec.to_builtins(before),
            "overhead, 4 floats": overhead(bundle, args.rounds),
            "deadline, 4 floats": deadlines(bundle, args.rounds),
            "start, 4 floats": start(bundle, work / ".b.1.onnx", 7),
            "after": msgspec.to_builtins(read_now()),
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
