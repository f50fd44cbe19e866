"""Train the teacher on scikit-learn's digits and save its weights.

    python examples/digits/train.py --out out/digits

The last line on stdout is JSON: what it reached on the held-out scans, and where the weights are.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import data
import torch
from model import teacher
from safetensors.torch import save_file
from torch import Tensor, nn

_EPOCHS, _BATCH, _RATE = 8, 64, 3e-3
_MEAN, _STD, _INK = 0.3, 0.375, 16.0


def _tensors(scans: data.Scans) -> tuple[Tensor, Tensor]:
    """As the network takes them: float32 [N, 1, 8, 8], normalised as the recipe says."""
    images = torch.from_numpy(scans["image"]).permute(0, 3, 1, 2).float()
    return (images / _INK - _MEAN) / _STD, torch.from_numpy(scans["label"])


def fit(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Train in place, the same way each time."""
    steps = _EPOCHS * -(-len(labels) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    loss = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for epoch in range(_EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(labels)).split(_BATCH):
            optimizer.zero_grad()
            value = loss(model(images[rows]), labels[rows])
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.item() * len(rows)
        print(f"epoch {epoch + 1}/{_EPOCHS}: loss {total / len(labels):.3f}", file=sys.stderr)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("out/digits"), help="folder for the weights"
    )
    parser.add_argument("--drift", action="store_true", help="train on the worn scanner's scans")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    began = time.monotonic()
    model = teacher()
    fit(model, *_tensors(data.drifted_train() if args.drift else data.train()))
    images, labels = _tensors(data.drifted_evaluation() if args.drift else data.evaluation())
    with torch.no_grad():
        accuracy = 100 * (model(images).argmax(1) == labels).float().mean().item()
    args.out.mkdir(parents=True, exist_ok=True)
    weights = args.out / "teacher.safetensors"
    save_file(model.state_dict(), weights)
    answer = {
        "accuracy": round(accuracy, 2),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": len(labels),
        "seconds": round(time.monotonic() - began, 1),
        "weights": str(weights),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
