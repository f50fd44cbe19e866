"""REST: requests per second, latency and server CPU per call, skerry against its peers.

    python hw-bench/plans/runtime_rest.py [--rounds 7] [--seconds 1] [--out hw-bench/results/x.json]

Each server is pinned to one core and the load generator to another, so there must be two. On its
core the generator polls for answers; what one connection gives whose client sleeps until its answer
comes, and is woken, is measured beside it. Rounds are interleaved, so that a disturbance meets all;
a ratio is the median of the rounds' own ratios. The peers do less than skerry: the bare ASGI
callable checks nothing at all, and the bare socket echo, which tells what this machine's wake-ups
alone take, does not even read the request. MLServer, LitServe and BentoML are installed into
environments of their own at the first run. `skerry` runs as it does by default (`--power balanced`:
awake for 0.15 ms after an answer where requests follow each other closely); `frugal` never is.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

import _load  # noqa: E402
from _result import write_result  # noqa: E402
from _serving import CORES, measure, medians, peer, skerry  # noqa: E402

from fakes.bundles import make_bundle, make_onnx  # noqa: E402
from skerry.bench.machine import read_now  # noqa: E402

BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}
).encode()
FLOATS = _load.request(BODY)
OURS, SOCKET, BARE = "skerry", "skerry, Unix socket", "bare ASGI on uvicorn"
ECHO, FRUGAL = "bare socket echo", "skerry, --power frugal"
PEERS = {
    ECHO: "echo",
    BARE: "bare",
    "FastAPI": "fastapi",
    "MLServer": "mlserver",
    "LitServe": "litserve",
    "BentoML": "bentoml",
}
LEAST_RATE = {"FastAPI": 2.0, "MLServer": 5.0, "LitServe": 12.0, "BentoML": 12.0}
LARGEST_P50 = {BARE: 1.3}
SLEEPING = "1, sleeping"
CLIENTS = {"1": (1, True), "8": (8, True), SLEEPING: (1, False)}  # connections; awake
JUDGED = ("1", "8")
IDLE_S = 3.0


def ratio(rounds, name, other, key, clients):
    """The median over rounds of what `name` has of `other` with these clients."""
    pairs = zip(rounds[name][clients], rounds[other][clients], strict=True)
    return round(statistics.median(one[key] / two[key] for one, two in pairs), 3)


def ratios(rounds, name, other, key):
    """`ratio` with each of the clients that are judged."""
    return {clients: ratio(rounds, name, other, key, clients) for clients in JUDGED}


def checks(rounds):
    """Every limit, what was found at each number of connections, and whether it is met."""
    found = {}
    for name, limit in LEAST_RATE.items():
        value = ratios(rounds, OURS, name, "per_second")
        met = min(value.values()) >= limit
        found[f"requests/s over {name}"] = {"at least": limit, "found": value, "met": met}
    for name, limit in LARGEST_P50.items():
        value = ratios(rounds, OURS, name, "p50_us")
        met = max(value.values()) <= limit
        found[f"p50 of {name}"] = {"at most": limit, "found": value, "met": met}
    value = ratios(rounds, SOCKET, OURS, "per_second")
    met = min(value.values()) > 1.0
    found["Unix socket over TCP, requests/s"] = {"at least": 1.0, "found": value, "met": met}
    return found


def idle_cpu(servers):
    """Milliseconds of CPU a second that each server takes while nobody asks, once it has rested."""
    time.sleep(0.2)
    before = {name: server.cpu_seconds() for name, server in servers.items()}
    time.sleep(IDLE_S)
    return {
        name: round((server.cpu_seconds() - before[name]) * 1e3 / IDLE_S, 2)
        for name, server in servers.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_rest.json")
    args = parser.parse_args()
    if len(CORES) == 1:
        parser.error("needs two CPUs, one for the servers and one for the load generator")
    os.sched_setaffinity(0, CORES[-1:])
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work, first = Path(folder), CORES[:1]
        bundle, model = make_bundle(work / "b"), make_onnx(work / "m.onnx")
        servers = {
            OURS: skerry(bundle, "--http", "127.0.0.1:0", cores=first),
            SOCKET: skerry(bundle, "--uds", str(work / "s"), cores=first),
            FRUGAL: skerry(bundle, "--http", "127.0.0.1:0", "--power", "frugal", cores=first),
        }
        try:
            for name, kind in PEERS.items():
                servers[name] = peer(kind, model, first)
            rounds = {name: {clients: [] for clients in CLIENTS} for name in servers}
            for server in servers.values():
                server.wait_for(FLOATS)
                measure(server, 8, 0.3, FLOATS)
            for _ in range(args.rounds):
                for clients, (count, awake) in CLIENTS.items():
                    for name, server in servers.items():
                        found = measure(server, count, args.seconds, FLOATS, awake)
                        rounds[name][clients].append(found)
            memory = {name: round(one.memory_mib("Pss:"), 1) for name, one in servers.items()}
            idle = idle_cpu(servers)
        finally:
            for server in servers.values():
                server.stop()
    result = {
        "what": "REST, 4 floats as JSON, keep-alive; medians over interleaved rounds",
        "rounds": args.rounds,
        "seconds": args.seconds,
        "checks": checks(rounds),
        "requests/s where the client sleeps until its answer comes, over": {
            name: ratio(rounds, OURS, name, "per_second", SLEEPING) for name in LEAST_RATE
        },
        "connections": {
            clients: {name: medians(found[clients]) for name, found in rounds.items()}
            for clients in CLIENTS
        },
        "pss_mib": memory,
        "idle_cpu_ms_per_s": idle,
    }
    write_result(args.out, result, before)
    return 0 if all(check["met"] for check in result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
