"""REST: requests per second, latency and server CPU per call, skerry against its peers.

    python hw-bench/plans/runtime_rest.py [--rounds 7] [--seconds 1] [--out hw-bench/results/x.json]

Each server is pinned to one core and the load generator to another, where there are two. Rounds are
interleaved, so that a disturbance meets all. The peers do less than skerry: they check nothing.
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
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

import _load  # noqa: E402
import _models  # noqa: E402

from fakes.bundles import make_bundle, make_onnx  # noqa: E402
from skerry.bench.machine import read_machine, read_now  # noqa: E402

BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}
).encode()
SMALL = _load.request(BODY)
CORES = sorted(os.sched_getaffinity(0))
TICK = os.sysconf("SC_CLK_TCK")


def start(command):
    """A server pinned to the first core, and the first line it prints."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, CORES[:1]),
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    return process


def skerry(bundle, *where):
    command = [sys.executable, "-m", "skerry.cli.main", "run", str(bundle), *where, "--json"]
    process = start(command)
    text = b""
    while not text.endswith(b"\n}\n"):
        text += process.stdout.readline()
    return process, json.loads(text)["address"]


def peer(kind, model):
    script = str(Path(__file__).parent / "_rest_servers.py")
    process = start([sys.executable, script, kind, str(model)])
    return process, f"http://127.0.0.1:{int(process.stdout.readline())}"


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mib(pid):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return None


def measure(process, address, connections, seconds, message=SMALL):
    before = cpu_seconds(process.pid)
    took, total = _load.drive(address, message, connections, seconds)
    cpu = cpu_seconds(process.pid) - before
    sample = np.array(took) * 1e6
    return {
        "per_second": len(took) / total,
        "p50_us": float(np.percentile(sample, 50)),
        "p99_us": float(np.percentile(sample, 99)),
        "cpu_us": cpu / len(took) * 1e6,
    }


def image_messages():
    """One 96 × 96 image as JSON and as binary (110,592 bytes), asking for the same in return."""
    pixels = np.random.default_rng(0).normal(size=(1, *_models.IMAGE)).astype(np.float32)
    tensor = {"name": "x", "shape": pixels.shape, "datatype": "FP32"}
    plain = json.dumps({"inputs": [tensor | {"data": pixels.ravel().tolist()}]}).encode()
    size = {"binary_data_size": pixels.nbytes}
    head = {"inputs": [tensor | {"parameters": size}], "parameters": {"binary_data_output": True}}
    text = json.dumps(head).encode()
    length = b"inference-header-content-length: %d\r\n" % len(text)
    return {
        "JSON": _load.request(plain),
        "binary": _load.request(text + pixels.tobytes(), length),
    }


def images(work, rounds, seconds):
    """skerry with a small and a larger network: images as JSON and as binary."""
    found = {}
    messages = image_messages()
    for layers in (2, 8):
        server = skerry(
            _models.conv_bundle(work / f"conv{layers}", layers), "--http", "127.0.0.1:0"
        )
        try:
            parts = {name: [] for name in messages}
            for _ in range(rounds):
                for name, message in messages.items():
                    parts[name].append(measure(*server, 8, seconds, message))
        finally:
            server[0].terminate()
            server[0].wait()
        found[f"{layers} convolutions"] = {name: medians(part) for name, part in parts.items()}
    return found


def medians(parts):
    return {key: round(statistics.median(one[key] for one in parts), 2) for key in parts[0]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_rest.json")
    args = parser.parse_args()
    if len(CORES) > 1:
        os.sched_setaffinity(0, CORES[1:2])
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle, model = make_bundle(work / "b"), make_onnx(work / "m.onnx")
        servers = {
            "skerry": skerry(bundle, "--http", "127.0.0.1:0"),
            "skerry, Unix socket": skerry(bundle, "--uds", str(work / "s")),
            "bare ASGI on uvicorn": peer("bare", model),
            "FastAPI": peer("fastapi", model),
        }
        time.sleep(2)
        rounds = {name: {1: [], 8: []} for name in servers}
        try:
            for server in servers.values():
                measure(*server, 1, 0.3)
            for _ in range(args.rounds):
                for connections in (1, 8):
                    for name, server in servers.items():
                        rounds[name][connections].append(
                            measure(*server, connections, args.seconds)
                        )
            pictures = images(work, max(2, args.rounds // 2), args.seconds)
            memory = {name: rss_mib(process.pid) for name, (process, _) in servers.items()}
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()
    result = {
        "what": "REST, 4 floats as JSON, keep-alive; medians over interleaved rounds",
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(read_now()),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "pss_mib": memory,
        "connections": {
            str(count): {name: medians(found[count]) for name, found in rounds.items()}
            for count in (1, 8)
        },
        "images of 110,592 bytes, 8 connections": pictures,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
