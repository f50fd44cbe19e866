"""Pairs of model files such as updates are made of: public CIFAR ResNets, fine-tuned on JPEGs.

Seeded, from the shared data alone. Each model is tuned in four ways, and each result is emitted as
fp32, fp16 and int8 in ONNX, TFLite and Core ML; two more variants rename and reorder tensors.
ResNet56 takes fewer and longer steps than ResNet20, in bfloat16. Weights of a ResNet56 that was
trained on for epochs elsewhere can be a fifth kind, further away than the hard one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from _cifar import MEAN, STD, load_images, public
from cifar.model import ResNet
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from skerry.converter.archive import pack_folder
from skerry.converter.emit import Signature, emit
from skerry.converter.quantize import Scheme, calibrate
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["KINDS", "Pair", "make_pairs"]

_IMAGES = 10_000


@dataclass(frozen=True)
class Tuning:
    """How far a model is moved from where it was."""

    steps: int
    rate: float
    head_only: bool = False


KINDS = {
    "head": Tuning(60, 1e-2, head_only=True),
    "light": Tuning(30, 2.5e-4),
    "moderate": Tuning(60, 2e-3),
    "hard": Tuning(150, 1e-2),
}
_RETRAINED = "retrained"
_DEEP, _FEWER_STEPS = 56, 2.5


@dataclass(frozen=True)
class Pair:
    """Two versions of one file."""

    name: str
    old: Path
    new: Path


@cache
def _images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return load_images("train", _IMAGES)


def _prepared(pixels: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def _read(depth: int, weights: Path) -> ResNet:
    model = ResNet(depth)
    model.load_state_dict(load_file(weights))
    return model.eval()


def _tuned(depth: int, how: Tuning) -> ResNet:
    model, (pixels, labels) = public(depth), _images()
    deep = depth >= _DEEP
    if deep:
        model = model.to(memory_format=torch.channels_last)
        how = replace(how, steps=int(how.steps / _FEWER_STEPS), rate=how.rate * _FEWER_STEPS)
    model.train(not how.head_only)
    tuned = (model.linear if how.head_only else model).parameters()
    optimizer = torch.optim.SGD(tuned, how.rate, momentum=0.9, weight_decay=1e-4)
    draw = np.random.default_rng(0)
    for _ in range(how.steps):
        rows = draw.integers(0, len(pixels), 128)
        batch = _prepared(pixels[rows])
        if draw.random() < 0.5:
            batch = batch.flip(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=deep):
            scores = model(batch.to(memory_format=torch.channels_last) if deep else batch)
        loss = F.cross_entropy(scores.float(), torch.from_numpy(labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.to(memory_format=torch.contiguous_format).eval()


def _emitted(model: nn.Module, pixels: NDArray[np.uint8], folder: Path) -> dict[str, Path]:
    """Every format × precision of `model`, by name, below `folder`."""
    example = (_prepared(pixels[:1]),)
    signature = Signature(
        inputs=(TensorSpec(name="image", dtype="float32", shape=(-1, 3, 32, 32)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, 10)),),
    )
    batches = [(_prepared(pixels[i : i + 64]),) for i in range(0, 512, 64)]
    quantized = calibrate(model, example, batches, Scheme())
    made = {}
    for precision in ("fp32", "fp16", "int8"):
        source = quantized if precision == "int8" else model
        for form in ("onnx", "tflite", "coreml"):
            where = folder / f"{form}-{precision}"
            where.mkdir(parents=True, exist_ok=True)
            path = emit(form, precision, source, example, signature, where).path
            made[f"{form}-{precision}"] = _packed(path) if path.is_dir() else path
    made["onnx-int8-renamed"] = _renamed(made["onnx-int8"])
    made["onnx-int8-reordered"] = _reordered(made["onnx-int8"])
    return made


def _packed(package: Path) -> Path:
    """A Core ML package as one tar, as it travels in a bundle."""
    path = package.with_suffix(".tar")
    pack_folder(package, path)
    return path


def _renamed(path: Path) -> Path:
    model = onnx.load(path)
    names = {t.name: f"weights_of_release_two_{i}" for i, t in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    return _saved(model, path.with_name("renamed.onnx"))


def _reordered(path: Path) -> Path:
    model = onnx.load(path)
    tensors = list(model.graph.initializer)
    order = np.random.default_rng(0).permutation(len(tensors))
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors[i] for i in order)
    return _saved(model, path.with_name("reordered.onnx"))


def _saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def make_pairs(
    folder: Path,
    depths: tuple[int, ...] = (20, 56),
    seconds: float = float("inf"),
    retrained: Path | None = None,
) -> Iterator[Pair]:
    """Train, quantize and emit below `folder`, and yield the pairs; what was made there is kept.

    The renamed and the reordered variants are the new file of a pair whose old file is neither.

    Args:
        folder: where the files are.
        depths: of the ResNets.
        seconds: begin no other model after so long.
        retrained: safetensors of a ResNet56 that was trained on for epochs.
    """
    until = time.monotonic() + seconds
    for depth in depths:
        name = f"resnet{depth}"
        before = _made(folder / f"{name}-base", lambda depth=depth: public(depth).eval())
        kinds = {kind: partial(_tuned, depth, how) for kind, how in KINDS.items()}
        if depth == _DEEP and retrained is not None:
            kinds[_RETRAINED] = partial(_read, depth, retrained)
        for kind, tuned in kinds.items():
            if time.monotonic() > until:
                return
            after = _made(folder / f"{name}-{kind}", tuned)
            for variant, new in after.items():
                old = before[variant.removesuffix("-renamed").removesuffix("-reordered")]
                yield Pair(f"{name}/{kind}/{variant}", old, new)


def _made(folder: Path, model: Callable[[], nn.Module]) -> dict[str, Path]:
    """Every variant of a model by name, made below `folder` unless it was before."""
    index = folder / "made.json"
    if not index.exists():
        torch.manual_seed(0)
        made = _emitted(model(), _images()[0], folder)
        names = {variant: str(path.relative_to(folder)) for variant, path in made.items()}
        index.write_text(json.dumps(names))
    return {variant: folder / name for variant, name in json.loads(index.read_text()).items()}


def main() -> None:
    """Make the pairs, or go on making them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", type=Path)
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 56])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--retrained", type=Path, help="weights of a ResNet56, trained on")
    args = parser.parse_args()
    for pair in make_pairs(args.files, tuple(args.depths), args.seconds, args.retrained):
        print(pair.name, flush=True)


if __name__ == "__main__":
    main()
