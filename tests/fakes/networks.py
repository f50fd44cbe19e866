"""Small seeded networks and data to quantize and emit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skerry.converter.emit import Signature
from skerry.converter.steps.base import TrainingSet
from skerry.runtime.bundle.card import TensorSpec

__all__ = ["RESIDUAL_SIGNATURE", "Residual", "Uneven", "lines", "pictures", "residual"]

RESIDUAL_SIGNATURE = Signature(
    inputs=(TensorSpec("image", "uint8", (-1, 8, 8, 1)),),
    outputs=(TensorSpec("scores", "float32", (-1, 10)),),
)


class Residual(nn.Module):
    """uint8 [n, 8, 8, 1] → float32 [n, 10]: batch norm, ReLU6, depthwise, residual, pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.second_norm = nn.BatchNorm2d(8)
        self.relu6 = nn.ReLU6(inplace=True)
        self.narrow = nn.MaxPool2d(2)
        self.last = nn.Conv2d(8, 32, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout()
        self.head = nn.Linear(32, 10)
        self.register_buffer("mean", torch.tensor([0.5]).view(1, 1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = image.to(torch.float32).permute(0, 3, 1, 2) * (1 / 16) - self.mean
        x = torch.relu(self.stem(x))
        y = self.relu6(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        y += x
        x = self.narrow(torch.relu_(y))
        x = torch.relu(self.last(x))
        return self.head(self.drop(torch.flatten(self.pool(x), 1)))


def pictures(count: int, seed: int) -> Tensor:
    """Seeded uint8 pictures, [count, 8, 8, 1], values 0..16."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 17, (count, 8, 8, 1), dtype=torch.uint8, generator=generator)


def residual(seed: int = 0) -> Residual:
    """A `Residual` in eval mode whose batch norms have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Residual().train()
        with torch.no_grad():
            for step in range(5):
                module(pictures(32, seed=step))
            module.head.weight.mul_(4)  # so that the classes differ by more than a rounding
    return module.eval()


class Uneven(nn.Module):
    """Depthwise layers whose channels differ a thousandfold, as in some MobileNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.deep(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.point(x)).mean((2, 3)))

    @torch.no_grad()
    def spread(self) -> None:
        """Scale channels up in one layer and down in the next: the same function."""
        factors = torch.logspace(-1.5, 1.5, 16)
        self.stem.weight.mul_(factors.reshape(-1, 1, 1, 1))
        self.stem.bias.mul_(factors)
        self.deep.weight.mul_((1 / factors).reshape(-1, 1, 1, 1))


def lines(count: int = 256, seed: int = 3) -> TrainingSet:
    """Seeded pictures with a bright line across and a paler one down: eight classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 8
    images = 0.3 * torch.rand(count, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, label] += 1.0  # a bright line
        image[0, :, (3 * label) % 8] += 0.5
    return TrainingSet((images,), labels)
