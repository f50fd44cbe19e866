"""Models over strings: golden samples, the session, the cache and an isolated engine."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.bundles import WORDS, codes, make_text_bundle
from skerry.devices.errors import BundleError, GoldenError, SignatureMismatch
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.bundle.strings import code_points, from_code_points
from skerry.runtime.engine.caching import CacheLimits
from skerry.runtime.engine.isolated import IsolationLimits
from skerry.runtime.golden import check_outputs, compare
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_strings_survive_as_code_points(rows: list[tuple[str, str]]) -> None:
    array = np.array(rows)
    found = from_code_points(code_points(array))
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), np.int32),
        np.zeros(2, np.uint32),
        np.zeros((2, 0), np.uint32),
        np.full((2, 3), 0x110000, np.uint32),
    ],
)
def test_other_numbers_are_no_strings(array: np.ndarray) -> None:
    with pytest.raises(BundleError, match="string"):
        from_code_points(array)


@pytest.mark.parametrize(
    "options",
    [
        RuntimeOptions(),
        RuntimeOptions(cache=CacheLimits()),
        RuntimeOptions(isolation=IsolationLimits()),
    ],
    ids=["plain", "cached", "isolated"],
)
def test_a_model_over_strings_answers(tmp_path: Path, options: RuntimeOptions) -> None:
    runtime = Runtime.open(make_text_bundle(tmp_path / "b"), options)
    other = np.array([["rock", "sea"], ["a much longer string", "rock"]])
    for words in (WORDS, other, WORDS, WORDS[:1], other):
        answer = runtime.predict({"words": words})
        assert answer["same"].tolist() == words.tolist()
        np.testing.assert_array_equal(answer["code"], codes(words))
    runtime.close()


@pytest.mark.parametrize("words", [np.ones((1, 2), np.float32), WORDS.astype(object), WORDS[0]])
def test_what_is_no_string_is_refused(tmp_path: Path, words: np.ndarray) -> None:
    runtime = Runtime.open(make_text_bundle(tmp_path / "b"))
    with pytest.raises(SignatureMismatch, match="input words"):
        runtime.predict({"words": words})


def test_golden_strings_must_be_equal(tmp_path: Path) -> None:
    bundle = Bundle.open(make_text_bundle(tmp_path / "b"))
    golden = bundle.golden()
    assert golden["input/words"].tolist() == WORDS.tolist()
    (artifact,) = bundle.card.artifacts
    found = {"same": np.char.upper(WORDS), "code": codes(WORDS)}
    with pytest.raises(GoldenError, match="output same"):
        check_outputs(bundle.card, artifact, found, golden)
    assert compare(np.ones(2), np.array(["1.0", "x"])).argmax == 0.5
