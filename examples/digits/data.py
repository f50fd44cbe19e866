"""Scans of handwritten digits that scikit-learn carries: 1,797 of 8×8 pixels, 0 paper to 16 ink.

Three quarters train, a quarter is held out. Each function gives `image`, uint8 [N, 8, 8, 1], and
`label`, int64 [N]; the same arrays at every call. The drifted sets are the same scans as a worn
scanner would give them: tilted, out of place, pale and noisy.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Scans = dict[str, NDArray[np.generic]]

_SEED = 7
_INK = 16.0


@cache
def _halves() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=_SEED)
    return tuple(split)


def train() -> Scans:
    """The training scans, and each of them moved by up to a pixel."""
    images, _, labels, _ = _halves()
    generator = np.random.default_rng(_SEED)
    both = np.concatenate([images, _moved(images, generator)])
    return {"image": both, "label": np.tile(labels, 2)}


def evaluation() -> Scans:
    """The held-out scans."""
    _, images, _, labels = _halves()
    return {"image": images, "label": labels}


def drifted_train() -> Scans:
    """The training scans as they were and, three times, as a worn scanner gives them."""
    images, _, labels, _ = _halves()
    generator = np.random.default_rng(_SEED + 1)
    worn = [images, *[_worn(images, generator) for _ in range(3)]]
    return {"image": np.concatenate(worn), "label": np.tile(labels, len(worn))}


def drifted_evaluation() -> Scans:
    """The held-out scans as a worn scanner gives them."""
    _, images, _, labels = _halves()
    return {"image": _worn(images, np.random.default_rng(_SEED + 2)), "label": labels}


def _moved(images: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Each scan moved by -1, 0 or 1 pixels along both axes; paper comes in at the edge."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    offsets = generator.integers(0, 3, (len(images), 2))
    rows = [padded[i, y : y + 8, x : x + 8] for i, (y, x) in enumerate(offsets)]
    return np.stack(rows)


def _worn(images: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Tilted by up to 16 degrees, moved, paler, on grey paper, with noise."""
    tilted = _tilted(_moved(images, generator)[..., 0].astype(np.float64), generator)
    ink = generator.uniform(0.6, 0.9, (len(images), 1, 1))
    paper = generator.uniform(0.0, 2.5, (len(images), 1, 1))
    noise = generator.normal(0.0, 0.6, tilted.shape)
    return np.clip(np.rint(tilted * ink + paper + noise), 0, _INK).astype(np.uint8)[..., None]


def _tilted(images: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Rotated about the centre with bilinear interpolation."""
    angles = np.deg2rad(
        generator.uniform(4, 16, len(images)) * generator.choice([-1, 1], len(images))
    )
    sine, cosine = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    y, x = np.mgrid[:8, :8] - 3.5
    source_y = np.clip(cosine * y - sine * x + 3.5, 0, 6.999)
    source_x = np.clip(sine * y + cosine * x + 3.5, 0, 6.999)
    top, left = source_y.astype(int), source_x.astype(int)
    down, right = source_y - top, source_x - left
    row = np.arange(len(images))[:, None, None]
    upper = images[row, top, left] * (1 - right) + images[row, top, left + 1] * right
    lower = images[row, top + 1, left] * (1 - right) + images[row, top + 1, left + 1] * right
    return upper * (1 - down) + lower * down
