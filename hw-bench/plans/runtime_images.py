"""REST: images of 110,592 bytes as binary tensors and as JSON, 8 connections.

    python hw-bench/plans/runtime_images.py [--rounds 7] [--seconds 1] [--out X.json]

What is measured is the protocol, so it is judged on a network that hardly computes (a mean over the
image and a matrix product); what is left of the gain where the network computes too is told beside
it, for 2 and 8 convolutions. Rounds are interleaved; ratios are medians of the rounds' own.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

import _load  # noqa: E402
import _models  # noqa: E402
from _serving import CORES, measure, medians, skerry  # noqa: E402

from skerry.bench.machine import read_machine, read_now  # noqa: E402

CONNECTIONS, LEAST = 8, 5.0
JUDGED = "no convolution"
LAYERS = {JUDGED: 0, "2 convolutions": 2, "8 convolutions": 8}


def messages():
    """One 96 x 96 image as JSON and as binary, asking for the same in return."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_images.json")
    args = parser.parse_args()
    os.sched_setaffinity(0, CORES[-1:])
    before = read_now()
    sent, servers = messages(), {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, layers in LAYERS.items():
                bundle = _models.conv_bundle(Path(folder) / f"conv{layers}", layers)
                servers[name] = skerry(bundle, "--http", "127.0.0.1:0", cores=CORES[:1])
            rounds = {name: {form: [] for form in sent} for name in servers}
            for server in servers.values():
                server.wait_for(sent["binary"])
            for _ in range(args.rounds):
                for name, server in servers.items():
                    for form, message in sent.items():
                        found = measure(server, CONNECTIONS, args.seconds, message)
                        rounds[name][form].append(found)
        finally:
            for server in servers.values():
                server.stop()
    gains = {
        name: round(
            statistics.median(
                binary["per_second"] / plain["per_second"]
                for binary, plain in zip(found["binary"], found["JSON"], strict=True)
            ),
            2,
        )
        for name, found in rounds.items()
    }
    result = {
        "what": "REST, images of 110,592 bytes, 8 connections; medians over interleaved rounds",
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(read_now()),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "checks": {
            "binary over JSON, requests/s, where the protocol is what costs": {
                "at least": LEAST,
                "found": gains[JUDGED],
                "met": gains[JUDGED] >= LEAST,
            }
        },
        "binary over JSON": gains,
        "networks": {
            name: {form: medians(parts) for form, parts in found.items()}
            for name, found in rounds.items()
        },
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
