"""CIFAR ResNets (He et al. 2015, section 4.2) with shortcuts as the public weights have them."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Shortcut(nn.Module):
    """Every second pixel; new channels are zero."""

    def __init__(self, grown: int) -> None:
        super().__init__()
        self.before, self.behind = grown // 2, grown - grown // 2

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.behind))


class Block(nn.Module):
    def __init__(self, inward: int, outward: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inward, outward, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outward)
        self.conv2 = nn.Conv2d(outward, outward, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outward)
        same = stride == 1 and inward == outward
        self.shortcut = nn.Identity() if same else Shortcut(outward - inward)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Normalised pictures [n, 3, 32, 32] → scores [n, 10]."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for level, (inward, outward) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            blocks = [Block(inward, outward, 1 if level == 1 else 2)]
            blocks += [Block(outward, outward, 1) for _ in range((depth - 2) // 6 - 1)]
            setattr(self, f"layer{level}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def resnet56() -> ResNet:
    return ResNet(56)


def resnet20() -> ResNet:
    return ResNet(20)
