"""The prediction cache on ResNet56: what a hit costs, what is hit, and that it rests by itself.

    python hw-bench/plans/runtime_cache.py [--calls 6000] [--out FILE]

ResNet56 is the public network from the shared data (SKERRY_DATA), exported in fp32, and in int8 by
ONNX Runtime's own `quantize_static`; where the data is absent, 55 convolutions take its place.
Calls of the engine and hits are timed in turn.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

from _models import conv_bundle  # noqa: E402
from runtime_inprocess import microseconds, sample  # noqa: E402

from fakes.bundles import make_bundle  # noqa: E402
from skerry.bench.machine import read_machine, read_now  # noqa: E402
from skerry.runtime.bundle.card import TensorSpec, Tolerance  # noqa: E402
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle  # noqa: E402
from skerry.runtime.engine.caching import CacheLimits  # noqa: E402
from skerry.runtime.engine.select import open_engine  # noqa: E402
from skerry.runtime.prepare import RuntimeOptions  # noqa: E402
from skerry.runtime.runtime import Runtime  # noqa: E402

NEVER = 1 << 40
LEAST_CHEAPER, LEAST_HITS = 20.0, 0.9
WIDE = 3 * 224 * 224
DEAR = "dearer than its model: the first 3 of 150,528 numbers"


def networks(work):
    """Bundles by name, and one input of theirs."""
    try:
        from _cifar import Pictures, public
        from resnet56_int8 import peer

        model = Pictures(public(56)).eval()
    except (ImportError, ValueError):
        bundle = conv_bundle(work / "stack", 55, (3, 32, 32))
        x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
        return {"55 convolutions, fp32": bundle}, x
    import torch

    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    path = work / "fp32.onnx"
    torch.onnx.export(
        model,
        (torch.from_numpy(images[:2]),),
        path,
        dynamo=True,
        external_data=False,
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("n", min=1, max=4096)},),
        verbose=False,
    )
    int8 = peer(path, images, work / "int8.onnx")
    bundles = {
        f"ResNet56, {precision}": bundled(work / precision, file, precision, images[:8])
        for precision, file in (("fp32", path), ("int8", int8))
    }
    return bundles, images[:1]


def bundled(folder, path, precision, images):
    engine = open_engine("onnx", path)
    scores = engine.run({"image": images})["scores"]
    engine.close()
    write_bundle(
        folder,
        model="resnet56",
        version="1",
        inputs=[TensorSpec("x", "uint8", (-1, 32, 32, 3))],
        outputs=[TensorSpec("y", "float32", (-1, 10))],
        artifacts=[
            ArtifactFile(
                path=path,
                format="onnx",
                precision=precision,
                inputs=("image",),
                outputs=("scores",),
                tolerance=Tolerance(1e-3),
                golden={"y": scores},
            )
        ],
        golden_inputs={"x": images},
    )
    return folder


def stats_of(runtime):
    return runtime.active._engine.stats


def hit(bundle, x, rounds, work):
    """A hit in memory, and one in the file alone, against the engine."""
    plain = Runtime.open(bundle)
    memory = Runtime.open(bundle, RuntimeOptions(cache=CacheLimits(window_calls=NEVER)))
    limits = CacheLimits(window_calls=NEVER, bytes=0, store=work / "hit.db")
    stored = Runtime.open(bundle, RuntimeOptions(cache=limits))
    found = {"engine": [], "hit in memory": [], "hit in the file": []}
    for _ in range(rounds):
        found["engine"].append(sample(lambda: plain.predict({"x": x}), 30))
        found["hit in memory"].append(sample(lambda: memory.predict({"x": x}), 30))
        found["hit in the file"].append(sample(lambda: stored.predict({"x": x}), 30))
    result = {f"{name}, us": microseconds(parts) for name, parts in found.items()}
    for name in ("hit in memory", "hit in the file"):
        ratio = result["engine, us"]["p50"] / result[f"{name}, us"]["p50"]
        result[f"times cheaper, {name}"] = round(ratio, 1)
    for runtime in (plain, memory, stored):
        runtime.close()
    return result


def zipf(bundle, shape, dtype, calls, work):
    """A load of which 95% repeats an input seen before, drawn by a Zipf law; then a restart."""
    rng = np.random.default_rng(1)
    seen, sequence = 0, []
    for _ in range(calls):
        if seen == 0 or rng.random() < 0.05:
            sequence.append(seen)
            seen += 1
        else:
            sequence.append(int(rng.zipf(1.3)) % seen)
    inputs = rng.integers(0, 256, (seen, *shape)).astype(dtype)
    repeats = 1 - seen / calls
    result = {"calls": calls, "inputs": seen, "share that repeats": round(repeats, 4)}
    options = RuntimeOptions(cache=CacheLimits(store=work / "zipf.db"))
    for turn in ("first", "after a restart"):
        runtime = Runtime.open(bundle, options)
        for index in sequence:
            runtime.predict({"x": inputs[index : index + 1]})
        stats = stats_of(runtime)
        both = stats.hits + stats.store_hits
        result[turn] = {
            "answered from memory": round(stats.hits / calls, 4),
            "answered from memory or file": round(both / calls, 4),
            "memory_bytes": stats.bytes,
            "in use at the end": stats.in_use,
        }
        runtime.close()
    return result


def first_three(folder):
    """A bundle that answers the first 3 of 150,528 numbers: less work than telling inputs apart."""
    path = folder.parent / f"{folder.name}.onnx"
    nodes = [helper.make_node("Slice", ["in", "zero", "three", "one"], ["out"])]
    graph = helper.make_graph(
        nodes,
        "first_three",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", WIDE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.array([value], np.int64), name)
            for name, value in (("zero", 0), ("three", 3), ("one", 1))
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    x = np.ones((2, WIDE), np.float32)
    write_bundle(
        folder,
        model="first_three",
        version="1",
        inputs=[TensorSpec("x", "float32", (-1, WIDE))],
        outputs=[TensorSpec("y", "float32", (-1, 3))],
        artifacts=[
            ArtifactFile(
                path=path,
                format="onnx",
                precision="fp32",
                inputs=("in",),
                outputs=("out",),
                tolerance=Tolerance(1e-6),
                golden={"y": x[:, :3]},
            )
        ],
        golden_inputs={"x": x},
    )
    return folder


def rests(bundle, x, calls):
    """Every call repeats. Does the cache stop by itself, and what does each way cost?"""
    kept = Runtime.open(bundle, RuntimeOptions(cache=CacheLimits(window_calls=NEVER)))
    runtime = Runtime.open(bundle, RuntimeOptions(cache=CacheLimits()))
    plain = Runtime.open(bundle)
    in_use = []
    for _ in range(calls):
        runtime.predict({"x": x})
        in_use.append(stats_of(runtime).in_use)
    stats, took = stats_of(runtime), {"hit": [], "engine": [], "as judged": []}
    for _ in range(20):
        for name, one in (("hit", kept), ("engine", plain), ("as judged", runtime)):
            took[name].append(sample(lambda r=one: r.predict({"x": x}), 30))
    return {
        "calls": calls,
        "stopped after": in_use.index(False) + 1 if False in in_use else None,
        "share of calls it was asked in": round(stats.lookups / calls, 4),
        **{f"{name}, us": microseconds(parts) for name, parts in took.items()},
    }


def checks(result):
    """Every limit, what was found, and whether it is met."""
    cheaper = {name: found["times cheaper, hit in memory"] for name, found in result["hit"].items()}
    hits = {
        f"{name}, {turn}": found[turn]["answered from memory or file"]
        for name, found in result["zipf"].items()
        for turn in ("first", "after a restart")
    }
    stopped = result[DEAR]["stopped after"]
    return {
        "times cheaper than the model, hit in memory": {
            "at least": LEAST_CHEAPER,
            "found": cheaper,
            "met": min(cheaper.values()) >= LEAST_CHEAPER,
        },
        "hits where 95% repeat": {
            "at least": LEAST_HITS,
            "found": hits,
            "met": min(hits.values()) >= LEAST_HITS,
        },
        "rests by itself where a hit is dearer than the model": {
            "after calls": stopped,
            "met": stopped is not None,
        },
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=ROOT / "hw-bench/results/runtime_cache.json")
    args = parser.parse_args()
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundles, x = networks(work)
        result = {
            "what": "the prediction cache, in process",
            "machine": msgspec.to_builtins(read_machine()),
            "before": msgspec.to_builtins(before),
            "hit": {name: hit(one, x, args.rounds, work) for name, one in bundles.items()},
            "zipf": {
                name: zipf(one, x.shape[1:], x.dtype, args.calls, work)
                for name, one in list(bundles.items())[:1]
            },
            DEAR: rests(first_three(work / "wide"), np.ones((1, WIDE), np.float32), 1500),
            "cheap model, cheap hit: 4 floats, one layer": rests(
                make_bundle(work / "light"), np.ones((1, 4), np.float32), 1500
            ),
            "after": msgspec.to_builtins(read_now()),
        }
    result["checks"] = checks(result)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0 if all(check["met"] for check in result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
