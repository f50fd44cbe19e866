"""Whatever is done to metadata on the way, a device believes what was signed or refuses."""

import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tuf.api.metadata import Targets

from fakes.operator import Stage, release
from skerry.devices.errors import SkerryError
from skerry.devices.ids import DeviceId
from skerry.updater.repository.signing import newest
from skerry.updater.trust import Assignment, check_counter, rules
from skerry.updater.trust.assignment import agreed, assigned_path
from skerry.updater.trust.rules import Trusted

DEV = DeviceId("dev-1")
RUNS = int(os.environ.get("SKERRY_FUZZ_RUNS", "2000"))
"""How many mutations are tried; a long run is asked for by the environment."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        stage.sign(release(1), release(2))
        stage.publish()
        stage.director.assign(DEV, release(2))
        yield stage


def _mutated(data: bytes, chance: random.Random) -> bytes:
    body = bytearray(data)
    kind = chance.choice(["flip", "cut", "double", "swap", "insert", "digits", "splice"])
    at, to = sorted(chance.randrange(len(body) + 1) for _ in range(2))
    if kind == "flip":
        for _ in range(chance.randint(1, 8)):
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del body[at:to]
    elif kind == "double":
        body[at:at] = body[at:to]
    elif kind == "swap":
        body[at:to] = bytes(reversed(body[at:to]))
    elif kind == "insert":
        body[at:at] = chance.choice([b"{", b"[" * 5_000, b"null", b'"x":1,', b"9" * 5_000, b"\0"])
    elif kind == "digits":
        digits = [i for i, value in enumerate(body) if 48 <= value <= 57]
        body[chance.choice(digits)] = 48 + chance.randrange(10)
    else:
        body[at:to] = b""
        body += data[at:to]
    return bytes(body)


def _proved(files: Mapping[str, bytes], trusted: Trusted, now: float) -> Targets:
    """The targets that one repository proves, by the rules alone, to a device with nothing kept."""
    root = trusted.root
    trusted = rules.newer_timestamp(trusted, files["timestamp"], now)
    trusted = rules.newer_snapshot(trusted, files["snapshot"])
    return rules.proved_targets(trusted, files["targets"], "targets", root, now).targets["targets"]


def _judged(image: Targets, director: Targets) -> Assignment:
    path = assigned_path(director, DEV)
    assert path is not None
    found = agreed(path, director, image)
    check_counter(found.release, 2)
    return found


def test_mutated_metadata_never_changes_what_is_believed(stage: Stage) -> None:
    chance = random.Random(7)
    stage.director.read(DEV, "timestamp.json")
    now, true = stage.clock.now(), Assignment(release(2).id, "v2", release(2).manifest)
    files: dict[str, dict[str, bytes]] = {}
    roots: dict[str, Trusted] = {}
    for kind, store, folder in (
        ("image", stage.image_store, ""),
        ("director", stage.director_store, "dev-1"),
    ):
        files[kind] = {r: newest(store, r, folder)[1] or b"" for r in ("snapshot", "targets")}
        files[kind]["timestamp"] = store.files[f"{folder}/timestamp.json".lstrip("/")]
        roots[kind] = rules.pinned(store.files["1.root.json"])
    honest = {kind: _proved(files[kind], roots[kind], now) for kind in files}
    assert _judged(**honest) == true
    refused = 0
    for _ in range(RUNS):
        kind = chance.choice(["image", "director"])
        role = chance.choice(["timestamp", "snapshot", "targets"])
        mutated = {**files[kind], role: _mutated(files[kind][role], chance)}
        try:
            proved = {**honest, kind: _proved(mutated, roots[kind], now)}
            assert _judged(**proved) == true
        except SkerryError as error:
            refused += 1
            assert error.exit_code == 4
    assert refused > RUNS / 2
