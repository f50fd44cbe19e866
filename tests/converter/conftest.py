"""A user's folder: a small model, its data and a recipe."""

from pathlib import Path

import numpy as np
import pytest

MODEL = """
import torch
from torch import nn

def net(width=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4),
    )

def wide():
    return net(16)

def fails():
    raise RuntimeError("out of luck")

def text():
    return "a model"

def other():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""

DATA = '''
import numpy as np

def _quadrants(count, seed):
    """Bright in one of four quadrants, which is the class."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 100, (count, 8, 8, 1), dtype=np.uint8)
    labels = generator.integers(0, 4, count)
    for image, label in zip(images, labels):
        y, x = 4 * (label // 2), 4 * (label % 2)
        image[y:y + 4, x:x + 4] += 120 + 10 * np.uint8(label)
    return {"image": images, "label": labels}

def train():
    return _quadrants(256, 1)

def held_out():
    return _quadrants(96, 2)

def empty():
    return {"image": np.zeros((0, 8, 8, 1), np.uint8), "label": np.zeros(0, int)}

def out_of_range():
    return {**_quadrants(8, 3), "label": np.array([0, 1, 2, 3, 4, 0, 1, 2])}

def channels_first():
    return {"image": np.zeros((4, 1, 8, 8), np.uint8), "label": np.zeros(4, int)}
'''

RECIPE = """
[model]
name = "quadrants"
labels = ["nw", "ne", "sw", "se"]

[source]
model = "model.py:net"
weights = "net.safetensors"

[input.image]
shape = [1, 8, 8]
layout = "nhwc"
dtype = "uint8"
mean = [0.5]
std = [0.25]

[output.scores]

[data]
train = "data.py:train"
evaluation = "data.py:held_out"
calibration = { from = "train", count = 64 }

[quantize]
precisions = ["int8"]

[target]
formats = ["onnx"]
"""


@pytest.fixture(scope="session")
def trained_weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The small model, trained to tell the quadrants apart."""
    import torch
    from safetensors.torch import save
    from torch import nn

    torch.set_num_threads(1)
    scope: dict = {}
    exec(MODEL, scope)
    exec(DATA, scope)
    model = scope["net"]()
    # Position is lost in the average pool, so classes differ in brightness as well.
    rows = scope["train"]()
    images = (torch.from_numpy(rows["image"]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    labels = torch.from_numpy(rows["label"])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return save(model.state_dict())


@pytest.fixture
def project(tmp_path: Path, trained_weights: bytes) -> Path:
    """The folder, with `recipe.toml`, `model.py`, `data.py`, `net.safetensors` and `rows.npz`."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "net.safetensors").write_bytes(trained_weights)
    np.savez(
        tmp_path / "rows.npz",
        image=np.zeros((4, 8, 8, 1), np.uint8),
        label=np.array([0, 1, 2, 3]),
    )
    return tmp_path
