"""MLPerf Tiny's reference models through `skerry convert` to all three formats in int8.

ResNet8 sees the CIFAR-10 test JPEGs as raw 0..255 values, as its authors trained it. VWW sees the
same pictures at 96 x 96 in 0..1. AD and KWS see sound made here from a seed (a humming machine,
voiced syllables), put through the features of the benchmark: log-mel frames and MFCCs. The peer is
the benchmark's own int8 file, where it is among the data; AD's weights have one scale for a whole
layer, as there; layers of ResNet8 are raised above int8 until its answers agree. Writes JSON; exit
code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _result import write_result
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from skerry.bench.machine import read_now
from skerry.converter.flow import convert
from skerry.converter.graph import as_tensors, example_inputs
from skerry.converter.loading import load
from skerry.converter.metric import agreement
from skerry.converter.models import scheme_of
from skerry.converter.quantize import calibrate
from skerry.converter.quantize.observers import Decided
from skerry.converter.quiet import quieten
from skerry.converter.recipe_file import RecipeFile, load_recipe
from skerry.converter.result import ArtifactResult, Result
from skerry.converter.training import evaluate
from skerry.devices.output import Output

Floats = NDArray[np.float32]
Rows = dict[str, NDArray[Any]]

DATA = Path(os.environ.get("SKERRY_DATA", "../shared/data")).resolve()
RATE, ROWS = 16_000, 512
LEAST_AGREEMENT, LEAST_SNR_DB, MOST_BYTES = 0.99, 20.0, 1.05
RECIPE = """
[model]
name = "{name}"
[source]
model = "{models}/{model}"
[input.x]
shape = {shape}
channels = "last"
dtype = "{dtype}"
scale = 1.0
[data]
train = "{train}"
evaluation = "{evaluation}"
metric = "{metric}"
[quantize]
precisions = ["int8"]
calibrator = "mse"
per_channel = {per_channel}
refinements = {refinements}
{more}
"""
# ResNet8 answers too differently in int8 alone: the fewest layers that hurt keep floating point.
MIXED = """
mixed = { levels = ["fp16"], most = 1.0 }
[gate]
agreement = 0.991
"""
MODELS: dict[str, dict[str, Any]] = {
    "resnet8": {
        "model": "pretrainedResnet.h5",
        "shape": [32, 32, 3],
        "dtype": "uint8",
        "peer": "pretrainedResnet_quant.tflite",
        "refinements": '["bias_correction"]',
        "more": MIXED,
    },
    "vww": {"model": "vww_96.h5", "shape": [96, 96, 3], "peer": "vww_96_int8.tflite"},
    "ad": {"model": "ad01.h5", "shape": [640], "per_channel": "false", "peer": "ad01_int8.tflite"},
    "kws": {"model": "kws_ref_model", "shape": [49, 10, 1]},
}


def read_pictures(split: str, count: int, size: int) -> NDArray[np.uint8]:
    """A seeded choice of the JPEGs, uint8 [count, size, size, 3]."""
    with tarfile.open(DATA / f"cifar10-jpeg/{split}.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        picks = np.random.default_rng(0).choice(len(names), count, replace=False)
        found = [Image.open(archive.extractfile(names[i])).convert("RGB") for i in picks]
    return np.stack(
        [np.asarray(one.resize((size, size), Image.Resampling.BICUBIC)) for one in found]
    )


def unlabelled(x: Floats) -> Rows:
    """Rows whose answers nobody knows: they are compared with the source's, not with a label."""
    return {"x": x.astype(np.float32), "label": np.zeros(len(x), np.int64)}


def no_task(_outputs: Rows, _labels: NDArray[Any]) -> float:
    """A metric of nothing, where rows have no labels."""
    return 0.0


def vww_train() -> Rows:
    return unlabelled(read_pictures("train", ROWS, 96) / 255)


def vww_evaluation() -> Rows:
    return unlabelled(read_pictures("test", ROWS, 96) / 255)


def mel_filters(bands: int, bins: int, low: float, high: float) -> Floats:
    """Triangles evenly spaced in mel (HTK), [bins, bands]."""
    edges = np.linspace(*(1127 * np.log1p(np.array([low, high]) / 700)), bands + 2)
    mel = 1127 * np.log1p(np.linspace(0, RATE / 2, bins) / 700)[:, None]
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def spectrum(sound: Floats, window: int, hop: int, bins: int) -> Floats:
    """Magnitudes of Hann-windowed frames, [frames, bins]."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::hop]
    shape = np.hanning(window + 1)[:-1]
    return np.abs(np.fft.rfft(frames * shape, 2 * (bins - 1))).astype(np.float32)


def hum(random: np.random.Generator, seconds: float) -> Floats:
    """A small motor: harmonics of a wandering speed over broadband noise."""
    time = np.arange(int(RATE * seconds)) / RATE
    speed = random.uniform(40, 160) * (1 + 0.03 * np.sin(2 * np.pi * random.uniform(0.2, 2) * time))
    phase = 2 * np.pi * np.cumsum(speed) / RATE
    strengths = random.exponential(1, 40) / np.arange(1, 41) ** random.uniform(0.5, 1.5)
    tones = sum(a * np.sin((k + 1) * phase + random.uniform(0, 6)) for k, a in enumerate(strengths))
    colour = np.convolve(random.normal(0, 1, len(time)), random.normal(0, 1, 8), "same")
    return (random.uniform(0.005, 0.03) * (tones + random.uniform(0.1, 0.6) * colour)).astype("f4")


def ad_rows(seed: int) -> Floats:
    """Five frames of 128 log-mel energies in dB, [ROWS, 640], as the benchmark cuts them."""
    random, filters, found = np.random.default_rng(seed), mel_filters(128, 513, 0, RATE / 2), []
    area = filters.sum(0)
    for _ in range(32):
        power = spectrum(hum(random, 2.0), 1024, 512, 513) ** 2
        mel = 10 * np.log10(power @ (filters / np.maximum(area, 1e-6) / 15.6) + 1e-7)
        steps = random.choice(len(mel) - 4, ROWS // 32, replace=False)
        found += [mel[step : step + 5].reshape(-1) for step in steps]
    return np.stack(found)


def ad_train() -> Rows:
    return unlabelled(ad_rows(0))


def ad_evaluation() -> Rows:
    return unlabelled(ad_rows(1))


def word(random: np.random.Generator) -> Floats:
    """One second with one to three voiced syllables in it: a pitch through moving formants."""
    time = np.arange(RATE) / RATE
    sound = random.normal(0, random.uniform(0.0005, 0.005), RATE)
    start = random.uniform(0.1, 0.4)
    for _ in range(random.integers(1, 4)):
        length, pitch = random.uniform(0.1, 0.3), random.uniform(90, 240)
        shape = np.clip(np.sin(np.pi * (time - start) / length), 0, None)
        shape[(time < start) | (time > start + length)] = 0
        formants = random.uniform([250, 800, 2000], [900, 2300, 3500])
        for harmonic in np.arange(1, 3800 // pitch):
            gain = sum(1 / (1 + ((harmonic * pitch - f) / 120) ** 2) for f in formants)
            sound += 0.3 * gain * shape * np.sin(2 * np.pi * harmonic * pitch * time)
        start += length * 1.2
    return (sound * random.uniform(0.3, 1) / np.abs(sound).max()).astype(np.float32)


def kws_rows(seed: int) -> Floats:
    """Ten MFCCs of 49 frames, [ROWS, 49, 10, 1]: 30 ms every 20 ms, 40 bands from 20 to 4000 Hz."""
    random, filters = np.random.default_rng(seed), mel_filters(40, 257, 20, 4000)
    steps = np.arange(40) + 0.5
    cosines = np.cos(np.pi * np.arange(10) * steps[:, None] / 40) * np.sqrt(2 / 40)
    sounds = [word(random) for _ in range(ROWS)]
    mfcc = [np.log(spectrum(s, 480, 320, 257) @ filters + 1e-6) @ cosines for s in sounds]
    return np.stack(mfcc)[..., None]


def kws_train() -> Rows:
    return unlabelled(kws_rows(0))


def kws_evaluation() -> Rows:
    return unlabelled(kws_rows(1))


def recipe(name: str, work: Path) -> Path:
    """Write the recipe of one model; its data are the functions above."""
    here = Path(__file__).resolve()
    pictures = {split: str(DATA / f"cifar10-jpeg/{split}.tar") for split in ("train", "test")}
    real = name == "resnet8"
    text = RECIPE.format(
        **{
            "dtype": "float32",
            "per_channel": "true",
            "refinements": '["adaround", "bias_correction"]',
            "more": "",
            **MODELS[name],
        },
        name=name,
        models=DATA / "models/mlperf-tiny",
        train=pictures["train"] if real else f"{here}:{name}_train",
        evaluation=pictures["test"] if real else f"{here}:{name}_evaluation",
        metric="top1" if real else f"{here}:no_task",
    )
    path = work / f"{name}.toml"
    path.write_text(text)
    return path


def peer_top1(path: Path) -> float:
    """Points of the benchmark's own int8 ResNet8 on the 10,000 test pictures."""
    with tarfile.open(DATA / "cifar10-jpeg/test.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        pixels = [np.asarray(Image.open(archive.extractfile(n)).convert("RGB")) for n in names]
    classes = sorted({name.split("/")[-2] for name in names})
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = given["quantization"]
    right = 0
    for picture, name in zip(pixels, names, strict=True):
        stored = np.clip(np.round(picture / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], stored[None])
        interpreter.invoke()
        found = int(interpreter.get_tensor(answer["index"]).argmax())
        right += classes[found] == name.split("/")[-2]
    return 100 * right / len(names)


def check(value: float, limit: float, *, least: bool) -> dict[str, Any]:
    met = value >= limit if least else value <= limit
    return {"limit": limit, "value": round(value, 4), "met": met}


def judge(name: str, result: Result) -> dict[str, Any]:
    """What the three artifacts of one model have to show, by name of the check."""
    own: dict[str, ArtifactResult] = {one.format: one for one in result.artifacts}
    checks = {}
    for fmt, artifact in own.items():
        if name == "resnet8":
            checks[f"{fmt}: argmax agrees with the source"] = check(
                artifact.agreement, LEAST_AGREEMENT, least=True
            )
        else:
            checks[f"{fmt}: SNR, dB"] = check(artifact.snr_db, LEAST_SNR_DB, least=True)
    if "peer" in MODELS[name]:
        peer = DATA / "models/mlperf-tiny" / MODELS[name]["peer"]
        ratio = own["tflite"].bytes / peer.stat().st_size
        checks["tflite: bytes / MLPerf's own int8"] = check(ratio, MOST_BYTES, least=False)
        if name == "resnet8":
            checks["tflite: top-1 points, MLPerf's own int8 or more"] = check(
                own["tflite"].metric, peer_top1(peer), least=True
            )
    return checks


def what_costs(file: RecipeFile) -> dict[str, float]:
    """Agreement with the source if weights alone, or activations alone, were rounded to int8.

    The first is what rounding weights better could win back at most; the second what activations
    of int8, with one scale for a tensor, cost before any weight is rounded.
    """
    loaded = load(file)
    source = loaded.deployable(loaded.model)
    rows = [as_tensors(batch) for batch in loaded.calibration.batches(64)]
    example = example_inputs(file.recipe.input)
    model = calibrate(source, example, rows, scheme_of(file.recipe)).decided
    wanted = evaluate(loaded, source)["output"]
    found = {}
    for kept in ("weights", "activations"):
        graph = copy.deepcopy(model)
        for path, part in list(graph.named_modules(remove_duplicate=False)):
            if isinstance(part, Decided) and (part.ch_axis is None) == (kept == "weights"):
                graph.set_submodule(path, nn.Identity())
        graph.recompile()
        found[f"{kept} alone"] = agreement(wanted, evaluate(loaded, graph)["output"])
    return found


def measure(name: str, work: Path) -> dict[str, Any]:
    file = load_recipe(recipe(name, work))
    result = convert(file, work / name, Output())
    kept = ("bytes", "sha256", "metric", "agreement", "reference_agreement", "snr_db", "latency_ms")
    noisiest = sorted(result.layers, key=lambda layer: layer.own_db)[:3]
    return {
        "rows": result.source.rows,
        "source top-1, points": result.source.metric if name == "resnet8" else None,
        "artifacts": {
            one.name: {key: msgspec.to_builtins(getattr(one, key)) for key in kept}
            for one in result.artifacts
        },
        "layers that add most noise": msgspec.to_builtins(noisiest),
        "layers above int8": {one.layer: one.level for one in result.mixed if one.level != "int8"},
        "agreement if rounded": what_costs(file) if name == "resnet8" else None,
        "checks": judge(name, result),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("out/mlperf-tiny"))
    parser.add_argument("--out", type=Path, default=Path("hw-bench/results/mlperf_tiny.json"))
    arguments = parser.parse_args()
    globals()["DATA"] = arguments.data.resolve()
    os.environ["SKERRY_DATA"] = str(DATA)  # the recipes load this file again
    if not DATA.is_dir():
        print(f"skipped: there is no {arguments.data}")
        return 0
    quieten()
    arguments.work.mkdir(parents=True, exist_ok=True)
    before = read_now()
    found = {}
    if arguments.models and arguments.out.exists():  # the others stay as they were measured
        found = msgspec.json.decode(arguments.out.read_bytes())["models"]
    for name in arguments.models or MODELS:
        found[name] = measure(name, arguments.work.resolve())
    checks = [one for model in found.values() for one in model["checks"].values()]
    report = {
        "models": found,
        "met": all(one["met"] for one in checks),
    }
    write_result(arguments.out, report, before)
    return 0 if report["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
