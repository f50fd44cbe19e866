import numpy as np
import pytest

from fakes.engine import FakeEngine
from skerry.devices.errors import BundleError, GoldenError
from skerry.runtime.bundle.card import ArtifactSpec, BlobRef, Card, TensorSpec, Tolerance
from skerry.runtime.golden import check_golden, compare

REF = BlobRef("sha256:" + "0" * 64, 0)
X = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def _check(golden: np.ndarray, tolerance: Tolerance) -> None:
    artifact = ArtifactSpec("onnx-a", "onnx", "a", REF, "f", ("x",), ("y",), tolerance)
    spec_in, spec_out = TensorSpec("in", "float32", (-1, 4)), TensorSpec("out", "float32", (-1, 3))
    card = Card("m", "1", (spec_in,), (spec_out,), (artifact,), REF)
    check_golden(card, artifact, FakeEngine(WEIGHT), {"input/in": X, "output/onnx-a/out": golden})


def test_what_is_within_tolerance_passes() -> None:
    _check(X @ WEIGHT + np.float32(0.09), Tolerance(0.1, argmax=1.0))


def test_a_difference_is_named_and_measured() -> None:
    with pytest.raises(GoldenError, match=r"onnx-a: output out: differs from golden by 0\.11"):
        _check(X @ WEIGHT + np.float32(0.11), Tolerance(0.1))


def test_argmax_is_judged_apart() -> None:
    golden = X @ WEIGHT
    golden[0] = golden[0][[2, 0, 1]]
    with pytest.raises(GoldenError, match=r"agrees on 90\.0% of the rows, 95\.0% is asked"):
        _check(golden, Tolerance(100.0, argmax=0.95))
    _check(golden, Tolerance(100.0, argmax=0.9))


def test_nan_in_the_output_fails() -> None:
    golden = X @ WEIGHT
    golden[0, 0] = np.nan
    with pytest.raises(GoldenError, match="inf"):
        _check(golden, Tolerance(100.0))


def test_another_shape_or_no_golden_fails() -> None:
    with pytest.raises(GoldenError, match="shape"):
        _check((X @ WEIGHT)[:, :2], Tolerance(100.0))
    artifact = ArtifactSpec("onnx-a", "onnx", "a", REF, "f", ("x",), ("y",), Tolerance(1.0))
    spec = TensorSpec("in", "float32", (-1, 4))
    with pytest.raises(BundleError, match="output/onnx-a/in"):
        check_golden(
            Card("m", "1", (spec,), (spec,), (artifact,), REF),
            artifact,
            FakeEngine(WEIGHT),
            {"input/in": X},
        )


def test_equal_infinities_do_not_differ() -> None:
    odd = np.array([[np.inf, -np.inf, np.nan, 1.0]])
    assert compare(odd, odd).largest == 0.0
    assert compare(odd, -odd).largest == np.inf


def test_integers_are_compared_without_wrapping() -> None:
    low, high = np.array([[0]], np.uint8), np.array([[255]], np.uint8)
    assert compare(low, high).largest == 255
