from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skerry.devices.errors import BundleError, SignatureMismatch
from skerry.runtime.bundle.card import ArtifactSpec, BlobRef, Card, TensorSpec, Tolerance
from skerry.runtime.engine.base import Arrays
from skerry.runtime.session import Session, SessionLimits

REF = BlobRef("sha256:" + "0" * 64, 0)


class Echo:
    """Gives its inputs back, under other names."""

    name = "echo 1"

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self.inputs = specs
        self.outputs = specs

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, NDArray[Any]]:
        return dict(inputs)

    def close(self) -> None:
        pass


def _session(*specs: TensorSpec, limits: SessionLimits | None = None) -> Session:
    own = tuple(f"own {spec.name}" for spec in specs)
    artifact = ArtifactSpec("onnx-a", "onnx", "a", REF, "f", own, own, Tolerance(0.0))
    card = Card("m", "1", specs, specs, (artifact,), REF)
    engine = Echo(tuple(TensorSpec(f"own {s.name}", s.dtype, s.shape) for s in specs))
    return Session(card, artifact, engine, limits or SessionLimits())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "bool"])
def test_every_dtype_goes_through_and_nan_is_found_where_there_can_be_one(dtype: str) -> None:
    session = _session(TensorSpec("x", dtype, (-1, 3)))
    x = np.ones((2, 3), dtype)
    np.testing.assert_array_equal(session.predict({"x": x})["x"], x)
    if np.dtype(dtype).kind == "f":
        x[1, 2] = np.nan
        with pytest.raises(SignatureMismatch, match="input x: contains NaN"):
            session.predict({"x": x})
        lenient = _session(TensorSpec("x", dtype, (-1, 3)), limits=SessionLimits(refuse_nan=False))
        lenient.predict({"x": x})


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_free_axis_takes_any_length_but_none(dtype: str) -> None:
    session = _session(TensorSpec("x", dtype, (-1, -1, 2)))
    for length in (1, 7):
        session.predict({"x": np.ones((3, length, 2), dtype)})
    for shape in ((3, 0, 2), (3, 1, 0), (3, 1, 3), (3, 2)):
        with pytest.raises(SignatureMismatch, match="input x: has shape"):
            session.predict({"x": np.ones(shape, dtype)})


def test_a_fixed_batch_is_kept() -> None:
    session = _session(TensorSpec("x", "int32", (2, 2)))
    session.predict({"x": np.ones((2, 2), np.int32)})
    with pytest.raises(SignatureMismatch, match=r"has shape \[3, 2\], expected \[2, 2\]"):
        session.predict({"x": np.ones((3, 2), np.int32)})


def test_inputs_of_two_lengths_are_refused() -> None:
    session = _session(TensorSpec("a", "int8", (-1, 1)), TensorSpec("b", "int8", (-1, 1)))
    ones = np.ones((2, 1), np.int8)
    assert set(session.predict({"a": ones, "b": ones})) == {"a", "b"}
    assert set(session.predict({"a": ones, "b": ones}, ["b"])) == {"b"}
    with pytest.raises(SignatureMismatch, match="differ in length"):
        session.predict({"a": ones, "b": ones[:1]})


def test_a_file_with_other_tensors_than_the_card_says_is_refused() -> None:
    spec = TensorSpec("x", "int8", (-1, 1))
    artifact = ArtifactSpec("onnx-a", "onnx", "a", REF, "f", ("x",), ("z",), Tolerance(0.0))
    card = Card("m", "1", (spec,), (spec,), (artifact,), REF)
    with pytest.raises(BundleError, match="no output 'z'"):
        Session(card, artifact, Echo((spec,)), SessionLimits())
