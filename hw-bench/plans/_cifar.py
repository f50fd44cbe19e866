"""CIFAR-10 as JPEGs and the public ResNets for it, from the shared data (SKERRY_DATA)."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import torch
from cifar.model import ResNet
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

__all__ = ["DATA", "MEAN", "STD", "Pictures", "load_images", "public"]

DATA = Path(os.environ.get("SKERRY_DATA", "../shared/data"))
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class Pictures(nn.Module):
    """uint8 [n, 32, 32, 3] as callers have it → scores [n, 10]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("factor", 1 / (255 * STD), persistent=False)
        self.register_buffer("offset", MEAN / STD, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.to(torch.float32).permute(0, 3, 1, 2)
        return self.network(x * self.factor - self.offset)


def public(depth: int) -> ResNet:
    """A ResNet with its public weights."""
    (path,) = (DATA / "models/resnet-cifar").glob(f"resnet{depth}-*.th")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet(depth)
    model.load_state_dict({name.removeprefix("module."): v for name, v in state.items()})
    return model.eval()


def load_images(split: str, count: int | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 [n, 32, 32, 3] and labels of a split; a seeded choice of `count`, or all."""
    with tarfile.open(DATA / f"cifar10-jpeg/{split}.tar") as archive:
        names = sorted(m.name for m in archive.getmembers() if m.name.endswith(".jpg"))
        classes = sorted({name.split("/")[0] for name in names})
        if count is not None:
            picks = np.random.default_rng(0).choice(len(names), count, replace=False)
            names = [names[i] for i in picks]
        pixels = [np.asarray(Image.open(archive.extractfile(n)).convert("RGB")) for n in names]
    return np.stack(pixels), np.array([classes.index(n.split("/")[0]) for n in names])
