"""How soon `skerry run` answers for the digits bundle; what memory and which packages it takes.

    python hw-bench/plans/runtime_start.py [--rounds 9] [--out X.json]

From exec to the line that says where it answers: import, digests, golden samples, warm-up, listen.
Memory is private, after one inference, beyond that of a process with the engine alone on the same
artifact. The bundle is made once, by the example's own training and recipe, and kept under
`$XDG_CACHE_HOME/skerry-bench`.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(Path(__file__).parent)]

import _load  # noqa: E402
from _peers import cache_folder  # noqa: E402
from _serving import skerry  # noqa: E402

from skerry.bench.machine import read_machine, read_now  # noqa: E402
from skerry.runtime.bundle.reader import Bundle  # noqa: E402

READY_S, PRIVATE_MIB, PACKAGES = 0.6, 30.0, 8
ENGINE = ("onnxruntime", "numpy")
BARE = """
import sys
from pathlib import Path
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = False
session = onnxruntime.InferenceSession(sys.argv[1], options)
one = session.get_inputs()[0]
session.run(None, {one.name: numpy.zeros((1, 8, 8, 1), numpy.uint8)})
text = Path("/proc/self/smaps_rollup").read_text()
print(sum(int(l.split()[1]) for l in text.splitlines() if l.startswith("Private_")))
"""


def digits():
    """The example's bundle, made where it is not there yet."""
    folder = cache_folder() / "digits"  # the recipe reads the teacher from out/digits
    if not (folder / "v1/bundle/oci-layout").is_file():
        print("making the digits bundle", file=sys.stderr, flush=True)
        example = ROOT / "examples/digits"
        train = [sys.executable, example / "train.py", "--out", ROOT / "out/digits"]
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        words = ["convert", example / "recipe.toml", "--out", folder / "v1"]
        command = [sys.executable, "-m", "skerry.cli.main", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "v1/bundle"


def message():
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    tensor = {"name": "image", "shape": pixels.shape, "datatype": "UINT8"}
    body = json.dumps({"inputs": [tensor | {"data": pixels.ravel().tolist()}]}).encode()
    return _load.request(body, path=b"/v2/models/digits/infer")


def started(bundle, *words):
    """Seconds until it answers, and its private memory after an inference."""
    began = time.perf_counter()
    server = skerry(bundle, "--artifact", "onnx-int8", "--http", "127.0.0.1:0", *words)
    seconds = time.perf_counter() - began
    try:
        server.wait_for(message())
        return {"ready_s": seconds, "private_mib": server.memory_mib("Private_")}
    finally:
        server.stop()


def bare(model):
    out = subprocess.run([sys.executable, "-c", BARE, str(model)], capture_output=True, check=True)
    return int(out.stdout) / 1024


def needed(*names):
    """A package and all that it needs, by name."""
    found = set()
    queue = list(names)
    while queue:
        name = re.match(r"[A-Za-z0-9._-]+", queue.pop()).group().lower().replace("_", "-")
        try:
            here = distribution(name)
        except PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            queue += [one for one in here.requires or () if "extra ==" not in one]
    return found


def packages():
    """What serving needs beyond the engine: of skerry's own requirements and two of its extras."""
    extras = {"REST": ("httptools",), "REST and gRPC": ("httptools", "grpcio", "protobuf")}
    own = [one for one in distribution("skerry").requires if "extra ==" not in one]
    engine = needed(*ENGINE)
    return {name: sorted(needed(*own, *more) - engine) for name, more in extras.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_start.json")
    args = parser.parse_args()
    path, before = digits(), read_now()
    bundle = Bundle.open(path)
    model = bundle.path(bundle.card.artifact("onnx-int8").blob)
    rest, both, engine = [], [], []
    for _ in range(args.rounds):
        rest.append(started(path))
        both.append(started(path, "--grpc", "127.0.0.1:0"))
        engine.append(bare(model))
    alone = statistics.median(engine)
    found = {
        name: {
            "ready_s": round(statistics.median(one["ready_s"] for one in rounds), 3),
            "least ready_s": round(min(one["ready_s"] for one in rounds), 3),
            "private_mib beyond the engine": round(
                statistics.median(one["private_mib"] for one in rounds) - alone, 1
            ),
        }
        for name, rounds in (("REST", rest), ("REST and gRPC", both))
    }
    needs = packages()
    checks = {
        "ready, s": (READY_S, found["REST"]["ready_s"]),
        "private MiB beyond the engine": (
            PRIVATE_MIB,
            found["REST"]["private_mib beyond the engine"],
        ),
        "packages beyond the engine": (PACKAGES, max(len(one) for one in needs.values())),
    }
    result = {
        "what": "skerry run for the digits bundle, onnx-int8; medians",
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(read_now()),
        "rounds": args.rounds,
        "checks": {
            name: {"at most": limit, "found": value, "met": value <= limit}
            for name, (limit, value) in checks.items()
        },
        "serving": found,
        "engine alone, private MiB": round(alone, 1),
        "packages": needs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
