import hashlib
import random
import secrets
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from skerry.devices.errors import InputError
from skerry.runtime.features import features
from skerry.runtime.sketches import KllSketch, QuantileSketch, SketchLimits, SketchSet


def test_features_of_an_image_classifier():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    logits = np.array([[0, 5, 0], [9, 0, 0], [0, 3, 0], [1, 0, 8], [2, 2.5, 0]], np.float32)
    found, classes = features({"image": image}, {"logits": logits})
    assert sorted(found) == [
        "input/image/channel/0",
        "input/image/channel/1",
        "input/image/channel/2",
        "input/image/mean",
        "input/image/std",
        "output/logits/confidence",
    ]
    np.testing.assert_allclose(found["input/image/mean"], image.reshape(5, -1).mean(1), rtol=1e-5)
    np.testing.assert_allclose(
        found["input/image/channel/2"], image[..., 2].reshape(5, -1).mean(1), rtol=1e-5
    )
    expected = np.exp(logits).max(1) / np.exp(logits).sum(1)
    np.testing.assert_allclose(found["output/logits/confidence"], expected, rtol=1e-5)
    assert classes["output/logits"].tolist() == [1, 3, 1]


@pytest.mark.parametrize(
    "shape", [(2, 224, 224, 3), (2, 3, 224, 224), (2, 1, 100, 100), (2, 50_000)]
)
def test_large_rows_are_sampled_evenly(shape):
    ramp = np.linspace(0, 1, int(np.prod(shape[1:])), dtype=np.float32).reshape(shape[1:])
    found, _ = features({"x": np.stack([ramp, ramp * 2])}, {})
    np.testing.assert_allclose(found["input/x/mean"], [0.5, 1.0], rtol=0.01)
    np.testing.assert_allclose(found["input/x/std"], [ramp.std(), 2 * ramp.std()], rtol=0.01)
    assert ("input/x/channel/2" in found) == (3 in shape)


def test_probabilities_are_taken_as_they_are_and_columns_one_by_one():
    table = np.arange(6.0).reshape(3, 2)
    found, _ = features({"x": table}, {"p": np.array([[0.9, 0.1]] * 3)})
    assert found["input/x/column/1"].tolist() == [1, 3, 5]
    np.testing.assert_allclose(found["output/p/confidence"], 0.9)


def test_what_is_not_finite_or_not_numeric_is_passed_over():
    odd = np.array([[np.nan], [1.0], [np.inf]], np.float32)
    found, classes = features({"x": odd, "s": np.array(["a"])}, {"y": np.full((2, 3), np.nan)})
    assert found["input/x/column/0"].tolist() == [1.0]
    assert "input/s/value" not in found
    assert found["output/y/confidence"].size == 0
    assert classes["output/y"].sum() == 0


def test_live_sets_merge_and_come_back_from_bytes():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4000, 3)).astype(np.float32)
    parts = [SketchSet(), SketchSet()]
    for part, rows in zip(parts, (values[:1500], values[1500:]), strict=True):
        part.update({"x": rows}, {"y": rows})
    merged = SketchSet.decode(parts[0].encode())
    merged.merge(SketchSet.decode(parts[1].encode()))
    assert merged.rows == 4000
    assert sum(merged.classes["output/y"]) == 4000
    sketch = merged.features["input/x/column/0"]
    assert sketch.count == 4000
    truth = np.searchsorted(np.sort(values[:, 0]), [-1.0, 0.0, 1.0], side="right") / 4000
    np.testing.assert_allclose(sketch.cdf([-1.0, 0.0, 1.0]), truth, atol=3 * sketch.rank_error)


def test_a_reference_is_the_same_bytes_each_time_and_exact():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(3000, 2)).astype(np.float32)

    def build() -> SketchSet:
        result = SketchSet(reference=True)
        for rows in np.array_split(values, 7):
            result.update({"x": rows}, {"y": rows})
        return result

    first, second = build().encode(), build().encode()
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    sketch = SketchSet.decode(first).features["input/x/column/0"]
    assert sketch.count == 3000
    truth = np.searchsorted(np.sort(values[:, 0]), [-1.0, 0.0, 1.0], side="right") / 3000
    np.testing.assert_allclose(sketch.cdf([-1.0, 0.0, 1.0]), truth, atol=sketch.rank_error)
    with pytest.raises(InputError):
        SketchSet.decode(first).merge(SketchSet.decode(second))


def test_few_values_are_kept_as_they_are():
    sketch = QuantileSketch.of(np.array([3.0, 1.0, 2.0], np.float32), 513)
    assert sketch.quantiles([0.0, 0.5, 1.0]).tolist() == [1.0, 2.0, 3.0]
    assert sketch.rank_error == 0.0


def test_hostile_bytes_are_refused():
    live = SketchSet()
    live.update({"x": np.random.default_rng(3).normal(size=(900, 4))}, {})
    good = live.encode()
    chance = random.Random(4)
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        del bad[chance.randint(len(bad) // 2, len(bad)) :]
        try:
            SketchSet.decode(bytes(bad))
        except InputError:
            continue


@pytest.mark.parametrize(
    "wire",
    [
        {"v": 2, "rows": 0, "features": {}, "classes": {}},
        {"v": 1, "rows": -1, "features": {}, "classes": {}},
        {"v": 1, "rows": 0, "features": {"x": ["kll", 1, b""]}, "classes": {}},
        {"v": 1, "rows": 0, "features": {"x": ["kll", 7, KllSketch().encode()]}, "classes": {}},
        {
            "v": 1,
            "rows": 0,
            "features": {"x": ["quantiles", 2, b"\0\0\xc0\x7f" * 2]},
            "classes": {},
        },
        {"v": 1, "rows": 0, "features": {"x": ["quantiles", 2, b"\0\0\0"]}, "classes": {}},
        {"v": 1, "rows": 0, "features": {"x\n": ["kll", 1, b""]}, "classes": {}},
        {"v": 1, "rows": 0, "features": {}, "classes": {"y": [-1]}},
        {"v": 1, "rows": 0, "features": {}, "classes": {"y": [0] * 5000}},
    ],
)
def test_a_set_out_of_bounds_is_refused(wire):
    with pytest.raises(InputError):
        SketchSet.decode(msgspec.msgpack.encode(wire))


def test_a_set_that_is_too_long_is_refused_before_it_is_read():
    with pytest.raises(InputError):
        SketchSet.decode(bytes(100), limits=SketchLimits(set_bytes=99))


_MUTATE = """
import sys
import numpy as np
from skerry.devices.errors import InputError
from skerry.runtime.sketches import KllSketch

draw, taken = np.random.default_rng(int(sys.argv[1])), 0
honest = []
for rows in (0, 1, 2, 150, 500, 40_000):
    sketch = KllSketch()
    sketch.update(draw.standard_normal(rows, np.float32))
    honest.append(sketch.encode())
    assert KllSketch(honest[-1]).encode() == honest[-1]
for _ in range(4000):
    damaged = bytearray(honest[draw.integers(len(honest))])
    near = min(len(damaged), int(draw.choice([8, 60, len(damaged)])))
    for _ in range(draw.integers(1, 4)):
        damaged[draw.integers(near)] = draw.integers(256)
    del damaged[draw.integers(8, 2 * len(damaged) + 9) :]
    try:
        read = KllSketch(bytes(damaged))
    except InputError:
        continue
    taken += 1
    read.merge(KllSketch(honest[-1]))
    read.quantiles([0.0, 0.5, 1.0])
    read.cdf([0.0])
print(taken)
"""


def test_a_damaged_sketch_never_reaches_the_library() -> None:
    """In a process of its own: the library would end it."""
    seed = secrets.randbits(32)
    print("seed", seed)
    command = [sys.executable, "-c", _MUTATE, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}: {done.returncode} {done.stderr}"
    assert int(done.stdout) > 100


def test_a_sketch_of_values_that_are_not_finite_is_refused() -> None:
    sketch = KllSketch()
    sketch.update(np.arange(100, dtype=np.float32))
    damaged = sketch.encode()[:-4] + np.float32("nan").tobytes()
    with pytest.raises(InputError, match="not finite"):
        KllSketch(damaged)


def test_rows_that_are_views_of_a_message_are_taken() -> None:
    """As the server gives them: numpy lets nobody write to them."""
    row = np.frombuffer(np.arange(4, dtype=np.float32).tobytes(), np.float32).reshape(1, 4)
    assert not row.flags.writeable
    live = SketchSet()
    live.update({"x": row}, {"y": row})
    found = live.features
    assert [found[f"input/x/column/{n}"].quantiles([0.5])[0] for n in range(4)] == [0, 1, 2, 3]
