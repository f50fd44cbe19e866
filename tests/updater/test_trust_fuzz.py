"""Whatever is done to metadata on the way, a device believes what was signed or refuses."""

import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

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


def _judged(files: Mapping[str, bytes], roots: Mapping[str, Trusted], now: float) -> Assignment:
    """What a device without anything kept would believe of `files`, by the rules alone."""
    proved = {}
    for kind in ("image", "director"):
        trusted = rules.newer_timestamp(roots[kind], files[f"{kind}/timestamp"], now)
        trusted = rules.newer_snapshot(trusted, files[f"{kind}/snapshot"])
        data, root = files[f"{kind}/targets"], roots[kind].root
        proved[kind] = rules.proved_targets(trusted, data, "targets", root, now).targets["targets"]
    path = assigned_path(proved["director"], DEV)
    assert path is not None
    found = agreed(path, proved["director"], proved["image"])
    check_counter(found.release, 2)
    return found


def test_mutated_metadata_never_changes_what_is_believed(stage: Stage) -> None:
    chance = random.Random(7)
    stage.director.read(DEV, "timestamp.json")
    files, roots = {}, {}
    for kind, store, folder in (
        ("image", stage.image_store, ""),
        ("director", stage.director_store, "dev-1"),
    ):
        for role in ("snapshot", "targets"):
            files[f"{kind}/{role}"] = newest(store, role, folder)[1] or b""
        files[f"{kind}/timestamp"] = store.files[f"{folder}/timestamp.json".lstrip("/")]
        roots[kind] = rules.pinned(store.files["1.root.json"])
    now, true = stage.clock.now(), Assignment(release(2).id, "v2", release(2).manifest)
    assert _judged(files, roots, now) == true
    names, refused = sorted(files), 0
    for _ in range(RUNS):
        name = chance.choice(names)
        try:
            assert _judged({**files, name: _mutated(files[name], chance)}, roots, now) == true
        except SkerryError as error:
            refused += 1
            assert error.exit_code == 4
    assert refused > RUNS / 2
