"""A transformer and an LSTM, trained here on scikit-learn's digits, in all three formats.

The transformer reads a picture as 64 tokens, one per pixel, and is emitted in int8 weight-only and
int8 dynamic; the LSTM reads it as eight rows, and is emitted in fp32 and int8 weight-only. Held-out
rows are put through ONNX Runtime, LiteRT and our MIL executor, and held against the source. Writes
JSON; exit code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _result import write_result
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from skerry.bench.machine import read_now
from skerry.converter.emit import Emitted, Signature, emit, unsupported
from skerry.converter.proof import open_runner
from skerry.converter.quiet import quieten
from skerry.runtime.bundle.card import Format, TensorSpec

FORMATS: tuple[Format, ...] = ("onnx", "tflite", "coreml")
HELD_OUT, BATCH = 200, 50
LEAST_COSINE, MOST_ERROR = 0.99, 1e-4


class Attention(nn.Module):
    """Every token looks at every other, in `heads` ways."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        shape = (rows, length, self.heads, width // self.heads)
        parts = [part.reshape(shape).transpose(1, 2) for part in self.project(x).chunk(3, -1)]
        seen = F.scaled_dot_product_attention(*parts)
        return self.join(seen.transpose(1, 2).reshape(rows, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.narrow(F.gelu(self.widen(self.between(x))))


class Transformer(nn.Module):
    """int64 [n, 64] of 17 levels → scores [n, 10]."""

    def __init__(self, width: int = 64, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, width)
        self.place = nn.Parameter(0.1 * torch.randn(64, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(blocks)])
        self.norm, self.answer = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.embed(x) + self.place)
        return self.answer(self.norm(x).mean(1))


class Recurrent(nn.Module):
    """float32 [n, 8, 8] → scores [n, 10]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.lstm, self.answer = nn.LSTM(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.answer(states[:, -1])


@dataclass(frozen=True)
class Case:
    """One model, its rows, and the precisions it is emitted in."""

    name: str
    model: nn.Module
    rows: Tensor
    epochs: int
    precisions: tuple[str, ...]


def cases() -> Iterator[Case]:
    pixels = torch.from_numpy(load_digits().images).to(torch.float32)
    tokens = pixels.reshape(-1, 64).to(torch.int64)
    yield Case("transformer", Transformer(), tokens, 40, ("int8-weights", "int8-dynamic"))
    yield Case("lstm", Recurrent(), pixels / 16, 50, ("fp32", "int8-weights"))


def train(case: Case, labels: Tensor) -> None:
    optimizer = torch.optim.AdamW(case.model.parameters(), 3e-3, weight_decay=0.01)
    steps = case.epochs * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(case.epochs):
        for picks in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(case.model(case.rows[picks]), labels[picks]).backward()
            optimizer.step()
            schedule.step()
    case.model.eval()


def bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def compare(emitted: Emitted, rows: NDArray[Any], wanted: NDArray[Any]) -> dict[str, Any]:
    """The artifact's answers beside the source's; cosine per row, error over the largest answer."""
    runner = open_runner(emitted, ("x",), ("scores",))
    try:
        found = runner({"x": rows})["scores"]
    finally:
        runner.engine.close()
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (found * wanted).sum(1) / lengths
    return {
        "bytes": bytes_of(emitted.path),
        "cosine, mean": round(float(cosines.mean()), 6),
        "cosine, least": round(float(cosines.min()), 6),
        "largest error / largest answer": float(
            np.abs(found - wanted).max() / np.abs(wanted).max()
        ),
        "agreement": float((found.argmax(1) == wanted.argmax(1)).mean()),
    }


def measure(case: Case, labels: Tensor, work: Path) -> dict[str, Any]:
    train(case, labels[:-HELD_OUT])
    rows = case.rows[-HELD_OUT:]
    with torch.no_grad():
        wanted = case.model(rows).numpy()
    dtype = str(rows.dtype).removeprefix("torch.")
    signature = Signature(
        (TensorSpec("x", dtype, (-1, *rows.shape[1:])),),
        (TensorSpec("scores", "float32", (-1, 10)),),
    )
    artifacts, refused, checks = {}, {}, {}
    for fmt in FORMATS:
        for precision in case.precisions:
            name = f"{fmt}-{precision}"
            if reason := unsupported(fmt, precision):
                refused[name] = reason
                continue
            made = emit(fmt, precision, case.model, (rows[:2],), signature, work / case.name)
            found = artifacts[name] = compare(made, rows.numpy(), wanted)
            if precision == "fp32":
                value, limit, label = found["largest error / largest answer"], MOST_ERROR, "error"
                met = value <= limit
            else:
                value, limit, label = found["cosine, least"], LEAST_COSINE, "cosine, least"
                met = value >= limit
            checks[f"{name}: {label}"] = {"limit": limit, "value": value, "met": met}
    top1 = 100 * float((wanted.argmax(1) == labels[-HELD_OUT:].numpy()).mean())
    return {
        "source top-1, points": top1,
        "rows": HELD_OUT,
        "artifacts": artifacts,
        "not in the format": refused,
        "checks": checks,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("out/sequence-models"))
    parser.add_argument("--out", type=Path, default=Path("hw-bench/results/sequence_models.json"))
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = read_now()
    labels = torch.from_numpy(load_digits().target).to(torch.int64)
    found = {case.name: measure(case, labels, arguments.work) for case in cases()}
    checks = [one for model in found.values() for one in model["checks"].values()]
    report = {
        "models": found,
        "met": all(one["met"] for one in checks),
    }
    write_result(arguments.out, report, before)
    return 0 if report["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
