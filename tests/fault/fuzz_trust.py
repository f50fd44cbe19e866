"""Hostile metadata, bundles and sealed blobs by the million: refused by a typed error, or true.

    python tests/fault/fuzz_trust.py [--runs 1000000] [--seed 0] [--corpus DIR] [--out FILE]

The corpus is one honest file of each kind, written by `--make`. A run damages one of them (bits,
bytes, cuts, repeats, nesting, numbers, another file's middle) and reads it as a device does, in
memory that is limited. Signed metadata must then say what was signed; a sealed blob must open to
what was sealed; a bundle is read as if a thief of the signing keys had made it, and may be sound or
refused. Once in so many runs a whole device is offered damaged files for an update, and its slots
must stay, or come to hold the true release.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from tuf.api.metadata import Snapshot, Targets

from fakes.bundles import make_bundle
from fakes.operator import Stage, release
from fakes.rig import Fleet, Rig
from skerry.bench.machine import read_machine
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import SkerryError
from skerry.devices.identity import Identity
from skerry.devices.ids import DeviceId
from skerry.runtime.bundle.layout import Limits, parse_index, parse_manifest
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.features import features
from skerry.runtime.sketches import SketchSet
from skerry.updater.agent.joining import Claim
from skerry.updater.repository.releases import releases_in
from skerry.updater.repository.signing import newest
from skerry.updater.sealing import ContentKey, Envelope, SealedFile, purpose_of, seal, unwrap, wrap
from skerry.updater.store.journal import read_situation
from skerry.updater.trust import Refusal, rules
from skerry.updater.trust.assignment import assigned_path, patch_of, release_of
from skerry.updater.trust.rules import Trusted

CORPUS = Path(__file__).parent / "trust_corpus"
_MEMORY_BYTES = 4 << 30
_DEVICE_EVERY = 400
_NOW = 1_800_000_000.0
_DEVICE = Identity(derive_private_key(0x5EA1, SECP256R1()))
_KEY = ContentKey(bytes(range(32)))
_PLAIN = bytes(range(256)) * 600

Reader = Callable[[bytes], Any]


def make(folder: Path) -> None:
    """Write the corpus: one honest file of each kind."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        stage = Stage(place / "stage")
        stage.clock.jump(_NOW - stage.clock.now())
        stage.sign(release(1), release(2))
        stage.publish()
        stage.director.assign(DeviceId("dev-1"), release(2))
        files = {f"image-{role}": newest(stage.image_store, role)[1] for role in _ROLES}
        for role in _ROLES:
            files[f"director-{role}"] = newest(stage.director_store, role, "dev-1")[1]
        files["image-timestamp"] = stage.image_store.files["timestamp.json"]
        files["director-timestamp"] = stage.director_store.files["dev-1/timestamp.json"]
        for kind, store in (("image", stage.image_store), ("director", stage.director_store)):
            files[f"{kind}-root"] = store.files["1.root.json"]
        bundle = Bundle.open(make_bundle(place / "bundle", golden_rows=4))
        files["bundle-index"] = (place / "bundle/index.json").read_bytes()
        files["bundle-manifest"] = bundle.manifest_bytes
        files["bundle-card"] = bundle.blobs.read(bundle.card_blob)
        files["bundle-golden"] = bundle.read(bundle.card.golden)
        sketches, rows = SketchSet(reference=True), {"x": np.ones((9, 4), np.float32)}
        sketches.add(9, *features(rows, {"y": np.eye(9, 3, dtype=np.float32)}))
        files["bundle-reference"] = sketches.encode()
        rig = Rig.enrolled(Fleet(place / "fleet"), place / "home")
        rig.fleet.assign(rig.fleet.publish(1, sealed=True))
        assert rig.poll() == "installed"
        files["slots"] = (place / "home/store/slots.json").read_bytes()
    blob = Descriptor(Digest.of(_PLAIN), len(_PLAIN))
    files["sealed"] = b"".join(seal([_PLAIN], blob, _KEY))
    files["envelope"] = wrap(_KEY, _DEVICE.public_key, purpose_of(_KEY.id, "dev-1")).encode()
    files["claim"] = json.dumps({"token": "x" * 40, "server": "https://h", "ca": "PEM"}).encode()
    for file, data in files.items():
        assert data, file
        (folder / file).write_bytes(data)


_ROLES = ("snapshot", "targets")


class _OneBlob:
    """A store of the bundle's honest blobs, but one that is another's work."""

    def __init__(self, blobs: dict[Digest, bytes], evil: bytes, digest: Digest) -> None:
        self._blobs, self._evil, self._digest = blobs, evil, digest

    def read(self, blob: Descriptor) -> bytes:
        return self._evil if blob.digest == self._digest else self._blobs[blob.digest]


class Readers:
    """How a device reads each file of the corpus, and what it must find if it believes it."""

    def __init__(self, corpus: dict[str, bytes]) -> None:
        self.corpus = corpus
        self._folder = Path(tempfile.mkdtemp(prefix="skerry-fuzz-", dir=_quick()))
        self.all: dict[str, Reader] = {}
        for kind in ("image", "director"):
            self._metadata(kind)
        self._bundle()
        self.all["sealed"] = self._sealed
        self.all["envelope"] = lambda data: _true(
            unwrap(Envelope.decode(data), _DEVICE, purpose_of(_KEY.id, "dev-1")) == _KEY
        )
        self.all["slots"] = self._situation("slots.json")
        self.all["claim"] = self._claim

    def close(self) -> None:
        shutil.rmtree(self._folder)

    def _metadata(self, kind: str) -> None:
        files = {role: self.corpus[f"{kind}-{role}"] for role in ("root", "timestamp", *_ROLES)}
        start = rules.pinned(files["root"])
        timed = rules.newer_timestamp(start, files["timestamp"], _NOW)
        named = rules.newer_snapshot(timed, files["snapshot"])
        said = _targets(named, files["targets"], start)

        def timestamp(data: bytes) -> None:
            found = rules.newer_timestamp(start, data, _NOW)
            _true(rules.timestamp_of(found) == rules.timestamp_of(timed))

        def snapshot(data: bytes) -> None:
            with suppress(Refusal):  # as if the timestamp named these very bytes
                rules.parsed(Snapshot, "snapshot", data)
            _true(rules.newer_snapshot(timed, data).snapshot == named.snapshot)

        self.all[f"{kind}-root"] = lambda data: rules.newer_root(start, data)
        self.all[f"{kind}-timestamp"] = timestamp
        self.all[f"{kind}-snapshot"] = snapshot

        def targets(data: bytes) -> None:
            with suppress(Refusal):
                _told(rules.parsed(Targets, "targets", data).signed)
            _true(_targets(named, data, start) == said)

        self.all[f"{kind}-targets"] = targets

    def _bundle(self) -> None:
        manifest_bytes = self.corpus["bundle-manifest"]
        manifest = Descriptor(Digest.of(manifest_bytes), len(manifest_bytes))
        parts = {n: self.corpus[f"bundle-{n}"] for n in ("card", "golden")}
        blobs = {Digest.of(data): data for data in parts.values()}

        def opened(evil: bytes, digest: Digest, of: bytes = manifest_bytes) -> Bundle:
            store: Any = _OneBlob(blobs, evil, digest)
            return Bundle(store, manifest, of, Limits())

        nobody = Digest.of(b"nobody")
        self.all["bundle-index"] = lambda data: parse_index(data, Limits())
        self.all["bundle-manifest"] = lambda data: (
            parse_manifest(data, Limits()),
            _or_missing(lambda: opened(b"", nobody, data)),
        )
        self.all["bundle-card"] = lambda data: opened(data, Digest.of(parts["card"]))
        self.all["bundle-golden"] = lambda data: opened(data, Digest.of(parts["golden"])).golden()
        self.all["bundle-reference"] = SketchSet.decode

    def _sealed(self, data: bytes) -> None:
        file: BinaryIO = BufferedReader(SealedFile(BytesIO(data), Digest.of(_PLAIN), _KEY))
        _true(file.read() == _PLAIN)

    def _situation(self, name: str) -> Reader:
        def read(data: bytes) -> None:
            (self._folder / name).write_bytes(data)
            read_situation(self._folder)

        return read

    def _claim(self, data: bytes) -> None:
        (self._folder / "claim").write_bytes(data)
        Claim.read(self._folder / "claim")


def _targets(named: Trusted, data: bytes, start: Trusted) -> Any:
    return rules.proved_targets(named, data, "targets", start.root, _NOW).targets["targets"]


def _told(targets: Targets) -> None:
    """Everything that a device may read out of targets."""
    for target in targets.targets.values():
        for read in (release_of, patch_of):
            with suppress(Refusal):
                read(target, "targets")
    with suppress(Refusal):
        assigned_path(targets, DeviceId("dev-1"))
    with suppress(Refusal):
        releases_in(targets)


def _or_missing(read: Callable[[], Any]) -> None:
    """A manifest may name blobs that are not in the corpus."""
    try:
        read()
    except KeyError as error:
        assert isinstance(error.args[0], Digest), error


def _true(said: bool) -> None:
    assert said, "other content was believed"


def damaged(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """`data` with one to four kinds of damage."""
    body = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        at = draw.randrange(len(body)) if body else 0
        match draw.randrange(9):
            case 0 if body:
                body[at] ^= 1 << draw.randrange(8)
            case 1 if body:
                body[at] = draw.choice((0, 0x22, 0x2C, 0x5B, 0x7B, 0x80, 0xFF, draw.randrange(256)))
            case 2:
                del body[at:]
            case 3:
                del body[at : at + draw.randrange(1, 40)]
            case 4:
                body[at:at] = draw.choice(
                    (
                        b"[" * 5_000,
                        b'{"a":' * 2_000,
                        b"9" * 400,
                        b"-1",
                        b"1e999",
                        b"null",
                        b"\0" * 9,
                    )
                )
            case 5:
                begin = draw.randrange(len(other))
                body[at : at + draw.randrange(64)] = other[begin : begin + draw.randrange(64)]
            case 6:
                body[at:at] = body[at : at + draw.randrange(1, 200)]
            case 7:
                digits = [i for i in range(at, min(len(body), at + 400)) if 48 <= body[i] <= 57]
                if digits:
                    body[draw.choice(digits)] = 48 + draw.randrange(10)
            case _:
                body += body[at : at + draw.randrange(1, 64)]
    return bytes(body)


class Device:
    """A device that runs release 1 and is offered damaged files for its update to release 2."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder / "fleet")
        self.home, self.work = folder / "before", folder / "work"
        rig = Rig.enrolled(self.fleet, self.home)
        self.fleet.assign(self.fleet.publish(1, sealed=True, shift=1.0))
        assert rig.poll() == "installed"
        self.fleet.assign(self.fleet.publish(2, sealed=True, shift=2.0))
        self.now = self.fleet.clock._now
        work = self._rig()
        assert work.poll() == "installed"
        asked = dict.fromkeys(url for url, _ in self.fleet.fetcher.requests)
        found = {url: self.fleet.fetcher._find(url) for url in asked}
        self.pages = {url: data for url, data in found.items() if data}
        self.honest = dict(self.fleet.fetcher.pages)

    def _rig(self) -> Rig:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.home, self.work)
        self.fleet.clock._now = self.now
        return Rig(self.fleet, self.work)

    def offered(self, draw: random.Random) -> str:
        """One update with one to three damaged files; how it ended."""
        pages, chosen = (
            self.fleet.fetcher.pages,
            draw.sample(sorted(self.pages), draw.randint(1, 3)),
        )
        for url in chosen:
            other = self.pages[draw.choice(sorted(self.pages))]
            pages[url] = damaged(draw, self.pages[url], other)
        rig = self._rig()
        try:
            ended = rig.poll()
        except SkerryError as error:
            ended = type(error).__name__
        finally:
            pages.clear()
            pages.update(self.honest)
        active = "linear/2" if ended == "installed" else "linear/1"
        assert rig.slots[0] == active and rig.serving == active[-1], (chosen, ended, rig.slots)
        assert Rig(self.fleet, self.work).serving == active[-1], (chosen, ended)
        return ended


def fuzz(runs: int, seed: int, folder: Path = CORPUS) -> dict[str, Any]:
    """How the runs ended, by file and error.

    Raises:
        AssertionError: something was believed that is not true, or a slot changed.
        Exception: whatever is not a `SkerryError`, with the bytes that caused it.
    """
    draw = random.Random(seed)
    corpus = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    readers, ends = Readers(corpus), {name: Counter[str]() for name in corpus}
    names, longest = sorted(corpus), 0.0
    with tempfile.TemporaryDirectory(dir=_quick()) as place:
        device, offered = Device(Path(place)), Counter[str]()
        for number in range(runs):
            if number % _DEVICE_EVERY == 0:
                offered[device.offered(draw)] += 1
                continue
            name = draw.choice(names)
            bad = damaged(draw, corpus[name], corpus[draw.choice(names)])
            began = time.perf_counter()
            try:
                readers.all[name](bad)
            except Refusal as error:
                ends[name][str(error.rule)] += 1
            except SkerryError as error:
                ends[name][type(error).__name__] += 1
            except BaseException as error:
                error.add_note(f"run {number}, {name}: {bad.hex()[:20_000]}")
                raise
            else:
                ends[name]["sound"] += 1
            longest = max(longest, time.perf_counter() - began)
    readers.close()
    return {
        "ends": {name: dict(sorted(counts.items())) for name, counts in sorted(ends.items())},
        "devices": dict(sorted(offered.items())),
        "longest_read_s": round(longest, 3),
    }


def _quick() -> Path | None:
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else None


def main() -> None:
    """Fuzz, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--make", action="store_true", help="write the corpus anew, and end")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.make:
        make(args.corpus)
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    start = time.monotonic()
    found = fuzz(args.runs, args.seed, args.corpus)
    document = {
        "what": "damaged metadata, bundles and sealed blobs, read as a device reads them",
        "machine": read_machine(),
        "runs": args.runs,
        "seed": args.seed,
        "failures": 0,
        **found,
        "memory_limit_bytes": _MEMORY_BYTES,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": round(time.monotonic() - start),
    }
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"
    if args.out:
        args.out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
