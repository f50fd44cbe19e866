"""`skerry search`: the command on a small model, killed, resumed, refused, and reproduced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from skerry.cli.main import main
from skerry.converter.loading import load
from skerry.converter.recipe_file import load_recipe
from skerry.converter.search.trial import choosing_and_judging
from skerry.converter.search.workers import Cluster, Here, Processes, Workers, open_workers
from skerry.devices.errors import ExitCode, InputError, RecipeError, UnavailableError

_SEARCH = """
[[step]]
kind = "finetune"
epochs = 2
batch = 64

[[step]]
kind = "prune"
ratio = 0.25
epochs = 1

[search]
rungs = [0.5, 1.0]
wave = 2

[search.space]
"step[0].epochs" = { low = 1, high = 3 }
"step[1]" = [true, false]
"step[1].ratio" = [0.25, 0.5]
"""


@pytest.fixture
def searched(project: Path) -> Path:
    """The project, with a search in its recipe."""
    recipe = project / "recipe.toml"
    recipe.write_text(recipe.read_text() + _SEARCH)
    return recipe


def _words(recipe: Path, out: Path, *more: str) -> list[str]:
    return ["search", str(recipe), "--out", str(out), "--json", *more]


def _result(out: Path) -> dict:
    return json.loads((out / "search.json").read_text())


def _decided(out: Path) -> dict:
    """What does not depend on the clock."""
    result = _result(out)
    return {
        "front": result["front"],
        "best": result["best"],
        "candidates": [
            (one["trial"], one["values"], one["merit"], one["sha256"])
            for one in result["candidates"]
        ],
    }


def _killed_midway(words: list[str], journal: Path, lines: int) -> None:
    """Run the command in a process of its own, and SIGKILL it once the journal has grown."""
    process = subprocess.Popen(
        [sys.executable, "-m", "skerry.cli.main", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, "the search ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_killed_and_resumed_with_other_jobs_it_ends_as_if_unbroken(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(_words(searched, whole, "--trials", "4", "--budget", "size=1MB")) == ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    assert printed == _result(whole)
    words = _words(searched, broken, "--trials", "4", "--budget", "size=1MB", "--jobs", "2")
    _killed_midway(words, broken / "journal.jsonl", 3)
    assert not (broken / "search.json").exists()
    assert main(words) == ExitCode.OK
    assert _decided(broken) == _decided(whole)
    report = (whole / "report.html").read_text()
    assert 'href="candidates/0000/recipe.toml"' in report
    assert "http" not in report.replace("http://www.w3.org", "")

    best = _result(whole)["best"]
    recipe = whole / f"candidates/{best:04d}/recipe.toml"
    assert main(["convert", str(recipe), "--out", str(tmp_path / "again"), "--json"]) == ExitCode.OK
    (made,) = json.loads((tmp_path / "again/result.json").read_text())["artifacts"]
    (candidate,) = (one for one in _result(whole)["candidates"] if one["trial"] == best)
    assert made["sha256"] == candidate["sha256"]
    assert made["bytes"] == candidate["merit"]["bytes"]
    # Of 96 rows the halves are equal, so that the points of all are the mean of both.
    assert candidate["unseen"]["rows"] == 48
    mean = (candidate["merit"]["metric"] + candidate["unseen"]["metric"]) / 2
    assert made["metric"] == pytest.approx(mean, abs=1e-3)
    assert "played no part in choosing" in report

    # More trials go on from those that there are; other budgets are another search.
    assert main(_words(searched, whole, "--trials", "5", "--budget", "size=1MB")) == ExitCode.OK
    assert len(_result(whole)["candidates"]) == 5
    assert main(_words(searched, whole, "--trials", "5")) == ExitCode.BAD_INPUT
    assert "another budgets" in capsys.readouterr().err


def test_rows_that_choose_and_rows_that_judge_have_none_in_common(searched: Path) -> None:
    loaded = load(load_recipe(searched))
    everything = {row.tobytes() for row in loaded.evaluation.inputs["image"]}
    assert len(everything) == len(loaded.evaluation)  # no row is there twice
    chosen_by, judged_by = (
        {row.tobytes() for row in rows.inputs["image"]} for rows in choosing_and_judging(loaded)
    )
    assert not chosen_by & judged_by and chosen_by | judged_by == everything
    assert len(chosen_by) == len(judged_by) == len(everything) // 2

    text = searched.read_text()
    searched.write_text(text.replace("[data]", '[data]\nvalidation = "data.py:train"'))
    loaded = load(load_recipe(searched))
    chosen, judging = choosing_and_judging(loaded)
    assert judging is loaded.evaluation and len(chosen) == 256
    searched.write_text(text.replace("[data]", '[data]\nvalidation = "data.py:held_out"'))
    with pytest.raises(RecipeError, match="the same rows choose and judge"):
        load_recipe(searched)


def test_budgets_that_nobody_meets_keep_the_best_so_far(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--trials", "1", "--budget", "size=100B", "--budget", "latency=1000x")
    assert main(_words(searched, tmp_path / "out", *words)) == ExitCode.GATE_FAILED
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert (result["best"], result["passed"]) == (0, False)
    assert result["binding"] == result["unmet"] == ["size=100B"]
    assert "beyond size=100B" in said.err
    assert (tmp_path / "out/candidates/0000/recipe.toml").is_file()
    assert "no candidate is within every budget" in (tmp_path / "out/report.html").read_text()


def test_rows_that_changed_are_not_answered_with_the_scores_of_the_old_ones(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out, words = project / "recipe.toml", tmp_path / "out", ("--trials", "1")
    space = '[search]\nrungs = [1.0]\n[search.space]\n"quantize.calibrator" = ["mse", "minmax"]\n'
    text = recipe.read_text().replace("data.py:held_out", "held_out.npz") + space
    recipe.write_text(text)
    images = np.random.default_rng(7).integers(0, 255, (64, 8, 8, 1), dtype=np.uint8)
    np.savez(project / "held_out.npz", image=images, label=np.zeros(64, np.int64))
    assert main(_words(recipe, out, *words)) == ExitCode.OK
    journal = (out / "journal.jsonl").read_bytes()
    np.savez(project / "held_out.npz", image=images, label=np.ones(64, np.int64))
    capsys.readouterr()
    assert main(_words(recipe, out, *words)) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "data.evaluation has changed since the search began" in said and "another --out" in said
    assert (out / "journal.jsonl").read_bytes() == journal

    np.savez_compressed(project / "held_out.npz", image=images, label=np.zeros(64, np.int64))
    assert main(_words(recipe, out, *words)) == ExitCode.OK  # the same rows in another file
    model = project / "model.py"
    model.write_text(model.read_text() + "# changed")
    assert main(_words(recipe, out, *words)) == ExitCode.BAD_INPUT
    assert "model.py has changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"step[1].ratio" = [0.25, 0.5]', '"step[1].ratoi" = [0.25]'), "did you mean 'ratio'"),
        (('"step[1].ratio" = [0.25, 0.5]', '"step[1].ratio" = [0.25, 1.5]'), "1.5: expected"),
        (('"step[1].ratio" = [0.25, 0.5]', '"step[7].ratio" = [0.25]'), "has no step[7]"),
        (("low = 1, high = 3", "low = -1, high = 3"), "search.space: step[0].epochs: -1"),
        (("rungs = [0.5, 1.0]", "rungs = [0.5, 0.75]"), "do not rise to 1"),
        (("wave = 2", "waves = 2"), "did you mean 'wave'"),
        (("[search", "[sarch"), "did you mean 'search'"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_any_work(
    change: tuple[str, str],
    words: str,
    searched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    searched.write_text(searched.read_text().replace(*change))
    assert main(_words(searched, tmp_path / "out")) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be_are_refused(
    searched: Path, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("--trials", "0"), ("--jobs", "0"), ("--budget", "size=big")):
        assert main(_words(searched, tmp_path / "out", *words)) == ExitCode.BAD_INPUT
        assert words[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Workers: each kind does the same.


@pytest.fixture(params=["here", "processes", "cluster"])
def workers(request: pytest.FixtureRequest):
    if request.param == "here":
        yield Here()
        return
    if request.param == "processes":
        found: Workers = Processes(2)
        yield found
        found.stop()
        return
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        found = Cluster(cluster.scheduler_address)
        yield found
        found.stop()


def _shout(argument: bytes) -> bytes:
    return argument.upper()


def test_workers_answer_every_call(workers: Workers) -> None:
    futures = [workers.submit(bytes.upper, word) for word in (b"a", b"bc", b"d")]
    assert [future.result(timeout=120) for future in futures] == [b"A", b"BC", b"D"]


def test_what_cannot_work_is_said() -> None:
    with pytest.raises(UnavailableError, match="no Dask scheduler"):
        Cluster("tcp://127.0.0.1:1", patience=0.5)
    with pytest.raises(InputError, match="--jobs"), open_workers(0, ""):
        pass


_ORPHANS = """
import os, sys, time
from skerry.converter.search.workers import Processes

if __name__ == "__main__":
    pool = Processes(2)
    for future in [pool.submit(bytes, b"x") for _ in range(2)]:
        future.result()
    print(*[process.pid for process in pool._pool._processes.values()], flush=True)
    time.sleep(600)
"""


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_ORPHANS)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    children = [int(word) for word in parent.stdout.readline().split()]
    descriptors = [os.pidfd_open(child) for child in children]
    parent.kill()
    parent.wait()
    import select

    for descriptor in descriptors:
        ready, _, _ = select.select([descriptor], [], [], 60)
        os.close(descriptor)
        assert ready, "a worker outlived its parent"
    assert len(children) == 2
