"""Where calls run and how many go together: the rules, and that the server tells what it chose."""

import http.client
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.bundles import make_bundle
from skerry.runtime.prepared import Prepared
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.placement import batch_rows, place, runs_inline, share
from skerry.runtime.serve.server import Server

LIMITS = ServeLimits()


@pytest.fixture
def release(tmp_path: Path) -> Prepared:
    found = Runtime.open(make_bundle(tmp_path / "b")).active
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("seconds", "gain", "isolated", "inline", "rows"),
    [
        (20e-6, 8.0, False, True, 32),
        (20e-6, 8.0, True, False, 32),
        (1e-3, 8.0, False, False, 32),
        (1e-3, 1.1, False, False, 1),
    ],
)
def test_quick_models_run_inline_and_batches_are_made_where_they_gain(
    release: Prepared, seconds: float, gain: float, isolated: bool, inline: bool, rows: int
) -> None:
    release.row_seconds, release.batch_gain, release.isolated = seconds, gain, isolated
    assert runs_inline(release, LIMITS) == inline
    assert batch_rows(release, LIMITS) == rows
    found = place(release, LIMITS)
    assert (found.inline, found.batch_rows) == (inline, 1 if inline else rows)
    assert f"a row takes {seconds * 1e6:.0f} us" in found.why


def test_a_long_batch_is_not_for_the_event_loop(release: Prepared) -> None:
    release.row_seconds, release.batch_gain = 50e-6, 4.0
    assert [runs_inline(release, LIMITS, rows) for rows in (1, 16, 17, 4096)] == [
        True,
        True,
        False,
        False,
    ]
    release.batch_gain = 0.5
    assert not runs_inline(release, LIMITS, 5)


def test_each_thread_takes_its_part() -> None:
    assert share(16, 2) == 8
    assert share(5, 2) == 3
    assert share(1, 4) == share(0, 4) == 1


def test_the_metadata_says_what_was_chosen_and_why(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    assert runtime.active is not None
    runtime.active.row_seconds, runtime.active.batch_gain = 1e-3, 1.1
    with Server(runtime) as server:
        connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=20)
        connection.request("GET", "/v2/models/linear")
        parameters = json.loads(connection.getresponse().read())["parameters"]
        connection.close()
    assert parameters["placement"] == {
        "inline": False,
        "batch_rows": 1,
        "why": "a row takes 1000 us, 1.10 times faster in a batch; joining pays from 1.25 times on",
    }


def test_many_calls_from_many_threads_are_each_answered_once(tmp_path: Path) -> None:
    """Off the loop, in batches: every client gets its own rows back."""
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    limits = ServeLimits(inline_s=0.0, batch_gain=0.0, threads=3)
    expected = {number: runtime.predict({"x": _row(number)})["y"] for number in range(8)}
    wrong: list[Any] = []

    def client(host: str, number: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=20)
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": _row(number).tolist()}
        for _ in range(50):
            connection.request("POST", "/v2/models/linear/infer", json.dumps({"inputs": [tensor]}))
            answer = json.loads(connection.getresponse().read())
            found = np.array(answer["outputs"][0]["data"])
            if not np.allclose(found, expected[number][0], atol=1e-5):
                wrong.append((number, answer))
        connection.close()

    with Server(runtime, limits=limits) as server:
        host = server.address.removeprefix("http://")
        threads = [threading.Thread(target=client, args=(host, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def _row(number: int) -> np.ndarray:
    return np.full((1, 4), number, np.float32)
