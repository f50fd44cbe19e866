"""ResNet20 int8 over REST: binary tensors, 16 connections, the load generator on the same cores.

    python hw-bench/plans/runtime_resnet20.py [--rounds 9] [--seconds 2] [--out X.json]

Reads the shared data (SKERRY_DATA). The bundle is converted once and kept under
`$XDG_CACHE_HOME/skerry-bench`. Beside the server as it chose to place the model, the engine alone
runs on as many threads, one image at a time and eight: what is left for a server to lose.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(Path(__file__).parent)]

import _load  # noqa: E402
from _peers import cache_folder  # noqa: E402
from _serving import CORES, measure, medians, skerry  # noqa: E402

from skerry.bench.machine import read_machine, read_now  # noqa: E402
from skerry.runtime.runtime import Runtime  # noqa: E402

CONNECTIONS, LEAST_RATE, LARGEST_P99_MS = 16, 2500, 45.0
IMAGE = (1, 32, 32, 3)


def resnet20():
    """The bundle, converted where it is not there yet."""
    folder = cache_folder() / "resnet20-int8"
    if not (folder / "oci-layout").is_file():
        print("converting ResNet20", file=sys.stderr, flush=True)
        convert(folder)
    return folder


def convert(folder):
    import torch
    from _cifar import Pictures, load_images, public
    from resnet56_int8 import BATCH, CALIBRATION

    from skerry.converter.emit import Signature, emit
    from skerry.converter.quantize import Scheme, calibrate
    from skerry.runtime.bundle.card import TensorSpec, Tolerance
    from skerry.runtime.bundle.writer import ArtifactFile, write_bundle
    from skerry.runtime.engine.select import open_engine

    torch.set_num_threads(1)
    images, _ = load_images("train", CALIBRATION)
    example = (torch.from_numpy(images[:2]),)
    batches = [(torch.from_numpy(images[at : at + BATCH]),) for at in range(0, CALIBRATION, BATCH)]
    quantized = calibrate(Pictures(public(20)).eval(), example, batches, Scheme(calibrator="mse"))
    signature = Signature(
        (TensorSpec("image", "uint8", (-1, *IMAGE[1:])),),
        (TensorSpec("scores", "float32", (-1, 10)),),
    )
    golden = images[:16]
    with tempfile.TemporaryDirectory() as work:
        emitted = emit("onnx", "int8", quantized, example, signature, Path(work))
        engine = open_engine("onnx", emitted.path)
        names = engine.inputs[0].name, engine.outputs[0].name
        artifact = ArtifactFile(
            path=emitted.path,
            format="onnx",
            precision="int8",
            inputs=names[:1],
            outputs=names[1:],
            tolerance=Tolerance(1.0, 0.9),
            golden={"scores": engine.run({names[0]: golden})[names[1]]},
        )
        write_bundle(
            folder,
            model="resnet20",
            version="1",
            inputs=signature.inputs,
            outputs=signature.outputs,
            artifacts=[artifact],
            golden_inputs={"image": golden},
        )


def message():
    pixels = np.random.default_rng(0).integers(0, 256, IMAGE, dtype=np.uint8)
    size = {"binary_data_size": pixels.nbytes}
    tensor = {"name": "image", "shape": IMAGE, "datatype": "UINT8", "parameters": size}
    head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    text = json.dumps(head).encode()
    length = b"inference-header-content-length: %d\r\n" % len(text)
    return _load.request(text + pixels.tobytes(), length, b"/v2/models/resnet20/infer")


def engine_alone(runtime, rows, seconds):
    """Images per second of the engine on one thread a core, nothing else running."""
    images = np.repeat(np.zeros(IMAGE, np.uint8), rows, axis=0)
    counts = []

    def work():
        count, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            runtime.predict({"image": images})
            count += rows
        counts.append(count / seconds)

    threads = [threading.Thread(target=work) for _ in CORES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"per_second": sum(counts)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_resnet20.json")
    args = parser.parse_args()
    bundle, sent, before = resnet20(), message(), read_now()
    rounds = {"skerry": [], "engine alone, 1 row": [], "engine alone, 8 rows": []}
    runtime = Runtime.open(bundle)
    server = skerry(bundle, "--http", "127.0.0.1:0")
    try:
        server.wait_for(sent)
        measure(server, CONNECTIONS, 0.5, sent)
        for _ in range(args.rounds):
            rounds["skerry"].append(measure(server, CONNECTIONS, args.seconds, sent))
            for rows in (1, 8):
                name = f"engine alone, {rows} row{'s' * (rows > 1)}"
                rounds[name].append(engine_alone(runtime, rows, args.seconds / 4))
    finally:
        server.stop()
        runtime.close()
    found = {name: medians(parts) for name, parts in rounds.items()}
    rate, p99_ms = found["skerry"]["per_second"], found["skerry"]["p99_us"] / 1e3
    result = {
        "what": "ResNet20 int8, REST, binary, 16 connections, load generator on the same cores",
        "machine": msgspec.to_builtins(read_machine()),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(read_now()),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "placement": server.told["placement"],
        "checks": {
            "requests/s": {"at least": LEAST_RATE, "found": rate, "met": rate >= LEAST_RATE},
            "p99, ms": {
                "at most": LARGEST_P99_MS,
                "found": p99_ms,
                "met": p99_ms <= LARGEST_P99_MS,
            },
        },
        "best round, requests/s": round(max(one["per_second"] for one in rounds["skerry"]), 1),
        "medians": found,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
