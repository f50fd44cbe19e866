import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import BIAS, linear, make_bundle
from skerry.devices.errors import InputError, SkerryError, UnavailableError
from skerry.runtime.room import Footprint
from skerry.runtime.runtime import Answer
from skerry.runtime.serve.server import Server
from skerry.runtime.shelf import Shelf, ShelfLimits

X = np.ones((1, 4), np.float32)
# Room for `n` small models, each counted as one unit.
UNIT = 1 << 20


def _limits(models: int) -> ShelfLimits:
    footprint = Footprint(per_byte=0.0, each_bytes=UNIT)
    return ShelfLimits(bytes=models * UNIT, footprint=footprint, retry_s=0.0)


def _shelf(folder: Path, count: int, room: int) -> Shelf:
    for n in range(count):
        make_bundle(folder / f"m{n}", model=f"m{n}", shift=float(n), golden_rows=2)
    return Shelf(folder, limits=_limits(room))


def _ask(shelf: Shelf, n: int) -> Answer:
    (found,) = shelf.answer_all(f"m{n}", [{"x": X}], None, None)
    assert isinstance(found, Answer), found
    np.testing.assert_allclose(found.outputs["y"], linear(X, BIAS + n), atol=1e-5)
    assert found.release.card.model == f"m{n}"
    return found


def test_a_shelf_of_50_with_room_for_10_answers_for_every_model(tmp_path: Path) -> None:
    shelf = _shelf(tmp_path, 50, 10)
    for n in range(50):
        _ask(shelf, n)
        _ask(shelf, 0)
        assert len(shelf.names_loaded()) <= 10
    assert shelf.loads == 50
    assert "m0" in shelf.names_loaded()
    shelf.close()
    assert shelf.names_loaded() == ()


def test_callers_from_many_threads_are_all_answered_while_models_come_and_go(
    tmp_path: Path,
) -> None:
    shelf = _shelf(tmp_path, 6, 2)
    draws = np.random.default_rng(0).integers(0, 6, 300)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: _ask(shelf, int(n)), draws))
    assert len(shelf.names_loaded()) <= 2
    shelf.close()


def test_one_that_cannot_be_loaded_is_told_and_spoils_no_other(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bad", model="bad", golden_error=1.0)
    shelf = _shelf(tmp_path, 2, 3)
    for _ in range(3):
        with pytest.raises(UnavailableError, match=r"bad 1: cannot be loaded: .*golden"):
            shelf.answer_all("bad", [{"x": X}], None, None)
        _ask(shelf, 0)
        _ask(shelf, 1)
    assert shelf.loads == 2


def test_a_call_that_does_not_fit_is_its_callers_own_error(tmp_path: Path) -> None:
    shelf = _shelf(tmp_path, 1, 1)
    (found,) = shelf.answer_all("m0", [{"x": X[0]}], None, None)
    assert isinstance(found, SkerryError)


@pytest.mark.parametrize("what", ["empty", "twice", "large"])
def test_a_folder_that_cannot_be_a_shelf_is_refused(tmp_path: Path, what: str) -> None:
    if what != "empty":
        make_bundle(tmp_path / "a")
    if what == "twice":
        make_bundle(tmp_path / "b")
    limits = ShelfLimits(bytes=1) if what == "large" else ShelfLimits()
    with pytest.raises(
        InputError, match={"empty": "no bundle", "twice": "two"}.get(what, "budget")
    ):
        Shelf(tmp_path, limits=limits)


def test_many_models_over_http(tmp_path: Path) -> None:
    shelf = _shelf(tmp_path, 4, 2)
    with Server(shelf) as server:
        host = server.address.removeprefix("http://")

        def call(method: str, path: str, body: object = None) -> tuple[int, object]:
            connection = http.client.HTTPConnection(host, timeout=20)
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            data = response.read()
            connection.close()
            return response.status, json.loads(data)

        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}
        wrong: list[object] = []

        def infer(n: int) -> None:
            status, answer = call("POST", f"/v2/models/m{n}/infer", {"inputs": [tensor]})
            if status != 200 or answer["model_name"] != f"m{n}":  # type: ignore[index]
                wrong.append(answer)
                return
            found = answer["outputs"][0]["data"]  # type: ignore[index]
            if not np.allclose(found, linear(X, BIAS + n)[0], atol=1e-5):
                wrong.append(answer)

        threads = [threading.Thread(target=infer, args=(n % 4,)) for n in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert call("GET", "/v2/health/ready")[0] == 200
        assert call("GET", "/v2/models/m3")[0] == 200
        assert call("POST", "/v2/models/m9/infer", {"inputs": [tensor]})[0] == 404
        assert call("POST", "/v2/repository/models/m1/load")[0] == 200
        assert call("POST", "/v2/repository/models/m2/unload")[0] == 200
        states = {m["name"]: m["state"] for m in call("POST", "/v2/repository/index")[1]}  # type: ignore[attr-defined]
        assert (states["m1"], states["m2"]) == ("READY", "UNAVAILABLE")
        infer(2)
        assert wrong == []
        assert call("POST", "/v2/repository/models/m9/load")[0] == 404
    shelf.close()
