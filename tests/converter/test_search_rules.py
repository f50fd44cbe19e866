"""What a search decides: spaces, budgets, fronts, promotion, journals. Pure, so told in numbers."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.converter.search.budget import Budget, Merit, read_budgets, violation
from skerry.converter.search.front import dominates, front, layers, promoted, verdict
from skerry.converter.search.journal import Entry, Header, Journal
from skerry.converter.search.proposals import propose
from skerry.converter.search.rebase import rebased
from skerry.converter.search.space import Choices, Range, assign, read_space
from skerry.converter.search.toml_text import toml_text
from skerry.devices.errors import InputError, RecipeError

_STEPS = {"model": {"name": "m"}, "step": [{"kind": "distill"}, {"kind": "prune", "ratio": 0.5}]}


def merit(bytes_: int, latency: float, metric: float) -> Merit:
    return Merit(bytes_, bytes_ / 1000, latency, latency / 10, metric, 100 - metric)


def test_a_space_is_choices_and_ranges() -> None:
    space = read_space(
        {
            "step[0].epochs": {"low": 2, "high": 8, "step": 2},
            "step[1].ratio": [0.25, 0.5],
            "step[1]": [True, False],
        },
        "r.toml",
    )
    assert space["step[0].epochs"] == Range(2, 8, 2)
    assert space["step[1].ratio"] == Choices((0.25, 0.5))
    assert space["step[0].epochs"].ends() == (2, 8)
    assert Range(2, 8, 2).whole and not Range(2.0, 8).whole
    assert [value for value in range(10) if Range(2, 8, 2).holds(value)] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "0 keys"),
        ({"step[0": [1]}, "is no key"),
        ({"a.b": 3}, "is no domain"),
        ({"a.b": []}, "0 choices"),
        ({"a.b": {"low": 1}}, "low and high"),
        ({"a.b": {"low": 1, "high": 2, "steps": 1}}, "unknown key 'steps'"),
        ({"a.b": {"low": 2, "high": 1}}, "is no range"),
        ({"a.b": {"low": 0, "high": 1, "log": True}}, "is no range"),
        ({"a.b": {"low": 0, "high": 1, "step": 2}}, "does not fit"),
        ({"a.b": {"low": "a", "high": 1}}, "are numbers"),
        ({"step[0]": [0.5]}, "taken or not"),
    ],
)
def test_another_form_is_refused(table: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=r"search\.space") as caught:
        read_space(table, "r.toml")
    assert words in str(caught.value)


def test_values_are_assigned_to_a_copy() -> None:
    document = {**_STEPS, "search": {"space": {}}}
    made = assign(document, {"step[0].epochs": 3, "quantize.layers.head": "fp16"})
    assert made["step"][0] == {"kind": "distill", "epochs": 3}
    assert made["quantize"] == {"layers": {"head": "fp16"}}
    assert "search" not in made and "search" in document
    assert document["step"][0] == {"kind": "distill"}
    without = assign(document, {"step[0]": False, "step[1].ratio": 0.25, "step[1]": True})
    assert without["step"] == [{"kind": "prune", "ratio": 0.25}]
    for key in ("step[2].epochs", "step[2]", "model.name.x", "model[0].name"):
        with pytest.raises(KeyError):
            assign(document, {key: True})


_PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=8),
)
_KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=5)
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_toml_is_read_as_it_was_written(document: dict) -> None:
    assert tomllib.loads(toml_text(document)) == document


def test_paths_follow_a_recipe_to_another_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "far/away"
    old.mkdir()
    for name in ("model.py", "data.npz", "train"):
        (old / name).write_text("")
    document = {
        "model": {"name": "data.npz"},
        "source": {"model": "model.py:net", "weights": "missing.safetensors"},
        "data": {"train": "train", "evaluation": "data.npz", "calibration": {"from": "train"}},
        "step": [{"kind": "distill", "student": "model.py:small", "freeze": ["data.npz", "x"]}],
    }
    moved = rebased(document, old, new)
    assert moved["source"] == {
        "model": "../../old/model.py:net",
        "weights": "missing.safetensors",
    }
    assert moved["data"]["evaluation"] == "../../old/data.npz"
    assert moved["data"]["train"] == "../../old/train"
    assert moved["data"]["calibration"] == {"from": "train"}
    assert moved["step"][0]["student"] == "../../old/model.py:small"
    assert moved["model"] == document["model"]


def test_budgets_in_their_units() -> None:
    size, latency, accuracy = read_budgets(["size=1.5MB", "latency=250us", "accuracy=-0.4"])
    assert (size.limit, size.relative) == (1.5e6, False)
    assert (latency.limit, latency.relative) == (0.25, False)
    assert (accuracy.limit, accuracy.relative) == (0.4, True)
    assert read_budgets(["latency=0.25x"])[0] == Budget("latency", 0.25, True, "latency=0.25x")
    assert read_budgets(["accuracy=-0"])[0] == Budget("accuracy", 0.0, True, "accuracy=-0")
    assert read_budgets(["accuracy=0"])[0] == Budget("accuracy", 0.0, False, "accuracy=0")
    assert violation([size, accuracy], merit(1_500_000, 1, 99.6)) == pytest.approx(0)
    assert violation([size], merit(3_000_000, 1, 99)) == pytest.approx(1.0)
    assert violation([accuracy], merit(1, 1, 98.6)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "text", ["size", "size=", "size=1ms", "weight=1", "size=-1", "latency=0x", "accuracy=1x", "=3"]
)
def test_another_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--budget"):
        read_budgets([text])


def test_two_budgets_of_a_kind_are_refused() -> None:
    with pytest.raises(InputError, match="two budgets for size"):
        read_budgets(["size=1kB", "size=2kB"])


_MERITS = st.builds(
    merit, st.integers(1, 6), st.integers(1, 6).map(float), st.integers(90, 96).map(float)
)


@given(st.lists(_MERITS, min_size=1, max_size=14))
def test_a_front_is_what_none_dominates_and_everything_is_in_a_layer(found: list[Merit]) -> None:
    merits = dict(enumerate(found))
    on_front = front(merits)
    for number, one in merits.items():
        beaten = any(dominates(other, one) for other in found)
        twin = any(merits[other] == one for other in on_front)
        assert twin is not beaten
        assert (number in on_front) <= twin
    assert sorted(number for layer in layers(merits) for number in layer) == list(merits)
    assert list(on_front) == sorted(on_front, key=lambda number: merits[number].bytes)


@given(st.lists(_MERITS, min_size=2, max_size=12), st.floats(0.1, 1.0), st.integers(1, 6))
def test_promotion_takes_the_better_share_and_at_least_one(
    found: list[Merit], keep: float, size: int
) -> None:
    seen = dict(enumerate(found))
    wave = list(seen)[-size:]
    chosen = promoted(wave, seen, (), keep)
    assert 1 <= len(chosen) <= max(1, round(keep * len(seen)))
    assert set(chosen) <= set(wave)
    shuffled = list(seen.items())
    random.Random(size).shuffle(shuffled)
    assert promoted(wave, dict(shuffled), (), keep) == chosen


def test_the_best_is_the_most_accurate_within_the_budgets() -> None:
    merits = {
        0: merit(500, 5, 99),
        1: merit(200, 3, 97),
        2: merit(210, 2, 98),
        3: merit(210, 2, 98),
    }
    budgets = read_budgets(["size=300B", "latency=9ms"])
    found = verdict(merits, budgets)
    assert (found.best, found.met) == (2, True)
    assert found.binding == ("size=300B",)
    assert verdict(merits, ()).best == 0 and verdict(merits, ()).binding == ()


def test_where_none_is_within_the_nearest_is_best_and_the_budget_is_named() -> None:
    merits = {0: merit(500, 5, 99), 1: merit(200, 3, 97)}
    found = verdict(merits, read_budgets(["size=100B", "latency=4ms", "accuracy=98"]))
    assert (found.best, found.met) == (1, False)
    assert found.binding == ("size=100B", "accuracy=98")
    assert found.unmet == ("size=100B",)


_HEADER = Header(recipe="r", budgets=("size=1kB",), seed=3, latency="counted")


def _entry(trial: int, rung: int = 0) -> Entry:
    return Entry(trial, rung, {"a.b": trial}, merit(100 + trial, 1.0, 95.0))


def test_a_journal_is_read_again_without_the_line_a_kill_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, _HEADER)
    for trial in range(3):
        journal.record(_entry(trial))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = Journal(path, _HEADER)
        complete = whole[:cut].count(b"\n")
        assert list(again.entries) == [(trial, 0) for trial in range(max(0, complete - 1))]
        again.record(_entry(9))
        assert path.read_bytes().startswith(b"".join(lines[: max(1, complete)]))
        assert (9, 0) in Journal(path, _HEADER).entries


@pytest.mark.parametrize(
    ("name", "value"),
    [("recipe", "s"), ("budgets", ()), ("seed", 4), ("latency", "measured"), ("version", 4)],
)
def test_a_journal_of_another_search_is_refused(name: str, value: object, tmp_path: Path) -> None:
    Journal(tmp_path / "j", _HEADER)
    with pytest.raises(InputError, match=f"another {name}"):
        Journal(tmp_path / "j", msgspec.structs.replace(_HEADER, **{name: value}))


def test_a_journal_of_other_contents_is_refused_and_they_are_named(tmp_path: Path) -> None:
    contents = {"model.py": "1", "data.evaluation": "2"}
    Journal(tmp_path / "j", msgspec.structs.replace(_HEADER, contents=contents))
    for other in ({**contents, "data.evaluation": "3"}, {"model.py": "1"}):
        with pytest.raises(
            InputError, match=r"data\.evaluation has changed since the search began"
        ):
            Journal(tmp_path / "j", msgspec.structs.replace(_HEADER, contents=other))


def test_a_journal_from_before_contents_were_noted_is_refused(tmp_path: Path) -> None:
    old = {"type": "search", "recipe": "r", "budgets": ["size=1kB"], "seed": 3, "version": 2}
    (tmp_path / "j").write_bytes(msgspec.json.encode({**old, "latency": "counted"}) + b"\n")
    with pytest.raises(InputError, match=r"another version of skerry.*give another --out"):
        Journal(tmp_path / "j", _HEADER)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("hello\n")
    with pytest.raises(InputError, match="no journal"):
        Journal(tmp_path / "j", _HEADER)


def test_proposals_follow_from_seed_and_finished_trials_alone() -> None:
    space = {
        "x": Range(1, 9),
        "y": Range(1e-3, 1e-1, None, True),
        "z": Choices(([], ["a"], "b")),
        "q": Range(4, 12, 4),
    }
    known: list[Entry] = []
    for trial in range(12):
        values = propose(space, known, (), 5, trial)
        assert values == propose(space, list(known), (), 5, trial)
        assert all(
            value in domain.values if isinstance(domain, Choices) else domain.holds(value)
            for domain, value in ((space[key], values[key]) for key in space)
        )
        failed = trial == 4
        found = None if failed else merit(values["x"] * 10, 1.0, 90.0 + values["q"])
        known.append(Entry(trial, 0, values, found))
    other = [propose(space, known, (), seed, 99) for seed in range(4)]
    assert len({str(one) for one in other}) > 1
    budgets = read_budgets(["size=30B"])
    assert propose(space, known, budgets, 5, 12) == propose(space, known, budgets, 5, 12)
