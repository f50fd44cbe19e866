from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.bundles import linear, make_bundle
from skerry.devices.errors import SignatureMismatch
from skerry.runtime.batching import join, split
from skerry.runtime.observe import Observation
from skerry.runtime.runtime import Answer, Runtime


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_what_was_joined_is_split_as_it_was(lengths: list[int]) -> None:
    rng = np.random.default_rng(0)
    calls = [{"a": rng.normal(size=(n, 2)), "b": rng.normal(size=(n,))} for n in lengths]
    joined = join(calls)
    assert joined is not None
    for found, asked in zip(split(joined, lengths), calls, strict=True):
        assert found.keys() == asked.keys()
        for name in asked:
            np.testing.assert_array_equal(found[name], asked[name])


@pytest.mark.parametrize(
    "other",
    [
        {"b": np.zeros((1, 2))},
        {"a": np.zeros((1, 3))},
        {"a": np.zeros((1, 2), np.float32)},
        {"a": np.zeros(())},
        {"a": np.zeros((1, 2)), "b": np.zeros((1, 2))},
        {},
    ],
)
def test_what_does_not_go_together_is_not_joined(other: dict[str, np.ndarray]) -> None:
    assert join([{"a": np.zeros((1, 2))}, other]) is None


def test_one_call_with_inputs_of_two_lengths_is_not_hidden_in_a_batch() -> None:
    odd = {"a": np.zeros((1, 2)), "b": np.zeros((2, 2))}
    even = {"a": np.zeros((2, 2)), "b": np.zeros((1, 2))}
    assert join([odd, even]) is None


def test_outputs_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows"):
        split({"y": np.zeros((4, 1))}, [1, 2])


class Seen(list[Observation]):
    def observed(self, call: Observation) -> None:
        self.append(call)


def test_callers_are_answered_together_and_each_is_observed(tmp_path: Path) -> None:
    seen = Seen()
    runtime = Runtime.open(make_bundle(tmp_path / "b"), observer=seen)
    rng = np.random.default_rng(0)
    calls = [{"x": rng.normal(size=(n, 4)).astype(np.float32)} for n in (1, 3, 2)]
    for inputs, answer in zip(calls, runtime.answer_all(calls), strict=True):
        assert isinstance(answer, Answer)
        np.testing.assert_allclose(answer.outputs["y"], linear(inputs["x"]), atol=1e-5)
    assert [call.rows for call in seen] == [1, 3, 2]


def test_one_bad_call_does_not_spoil_the_others(tmp_path: Path) -> None:
    seen = Seen()
    runtime = Runtime.open(make_bundle(tmp_path / "b"), observer=seen)
    good, bad = np.ones((1, 4), np.float32), np.full((1, 4), np.nan, np.float32)
    found = runtime.answer_all([{"x": good}, {"x": bad}, {"x": good}])
    assert isinstance(found[1], SignatureMismatch)
    for answer in (found[0], found[2]):
        assert isinstance(answer, Answer)
        np.testing.assert_allclose(answer.outputs["y"], linear(good), atol=1e-5)
    assert [call.error for call in seen] == [None, "signature", None]
