"""The served OpenAPI document is true: schemathesis, an outside tester, finds nothing wrong."""

import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes.bundles import make_bundle, make_text_bundle
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.listen import Access
from skerry.runtime.serve.server import Server
from skerry.runtime.shelf import Shelf

TOKEN = "a token of some length"
SEED = "1"


def _document(server: Server) -> Any:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=20)
    connection.request("GET", "/openapi.json", headers={"authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    assert response.status == 200
    document = json.loads(response.read())
    connection.close()
    return document


def test_it_names_the_models_on_offer(tmp_path: Path) -> None:
    make_bundle(tmp_path / "linear")
    make_text_bundle(tmp_path / "text")
    with Server(Shelf(tmp_path)) as server:
        document = _document(server)
    path = document["paths"]["/v2/models/{model}/infer"]
    (model,) = path["parameters"]
    assert model["schema"]["enum"] == ["linear", "text"]
    examples = path["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert examples["text"]["value"]["inputs"][0] == {
        "name": "words",
        "shape": [1, 2],
        "datatype": "BYTES",
        "data": ["", ""],
    }
    assert "security" not in document


def test_it_says_that_a_token_is_needed_and_is_served_without_a_model() -> None:
    with Server(Runtime(), access=Access(token=TOKEN)) as server:
        document = _document(server)
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/v2/health/live"]["get"]["security"] == []


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    make_bundle(tmp_path / "linear")
    words = ["--max-examples", "10", "--phases", "examples,coverage,fuzzing", "--no-color"]
    # Which shape goes with which data is beyond a schema: valid requests may be refused.
    words += ["--seed", SEED, "--checks", "all", "--exclude-checks", "positive_data_acceptance"]
    words += ["--header", f"Authorization: Bearer {TOKEN}"]
    with Server(Shelf(tmp_path), access=Access(token=TOKEN)) as server:
        url = f"{server.address}/openapi.json"
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", url, *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "Operations:       13 selected / 13 total" in done.stdout
