"""Two convolutional networks for 8×8 scans of digits: one large for the task, one not."""

from torch import Tensor, nn

_CLASSES = 10


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _block(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.second(self.first(x)))


class DigitNet(nn.Module):
    """8×8 grey → 10 scores.

    Args:
        width: channels of the first stage; the second has twice as many.
        blocks: residual blocks in the second stage.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(1, width),
            _block(width, 2 * width, stride=2),
            *[Residual(2 * width) for _ in range(blocks)],
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, 1, 8, 8] → scores float32 [N, 10]."""
        return self.head(self.features(x))


def teacher() -> nn.Module:
    """About 128,000 parameters."""
    return DigitNet(width=28, blocks=2)


def student() -> nn.Module:
    """About 24,000 parameters, 13,000 after the pruning of the recipe."""
    return DigitNet(width=16, blocks=1)
