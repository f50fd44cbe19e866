"""The server makes patches from what the fleet runs, the most common first; chains between."""

from dataclasses import replace
from pathlib import Path
from threading import Event

import msgspec

from fakes.bundles import make_bundle
from fakes.harbour import ALL, Harbour
from skerry.devices.clock import SystemClock
from skerry.devices.digest import Descriptor, Digest
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.delta import apply
from skerry.updater.server.bases import cheapest_way, most_run
from skerry.updater.server.deltas import DeltaMaker
from skerry.updater.server.fleet import ServerLimits
from skerry.updater.server.records import Delta, PublishedRelease


def _delta(base: str, new: str, size: int) -> Delta:
    return Delta(base, new, f"patch {base}{new}", "onnx", size, 100)


def test_what_most_devices_run_comes_first() -> None:
    assert most_run(["m/1", "m/2", "", "m/2", "m/3", "m/3"]) == ["m/2", "m/3", "m/1"]


def test_the_cheapest_chain_is_found_within_its_cap() -> None:
    known = [_delta("a", "b", 10), _delta("b", "d", 50), _delta("b", "c", 10), _delta("c", "d", 10)]
    known += [_delta("a", "d", 1), msgspec.structs.replace(_delta("c", "e", 9), patch="")]

    def way(new: str, links: int) -> str:
        return " ".join(delta.base + delta.new for delta in cheapest_way(known, "a", new, links))

    assert way("d", 4) == "ab bc cd"
    assert way("d", 2) == "ab bd"
    assert way("d", 1) == way("e", 4) == ""
    loop = [_delta("a", "b", 1), _delta("b", "a", 1)]
    assert cheapest_way(loop, "a", "z", 4) == ()


class Quay:
    """Releases with real blobs, and devices that run them."""

    def __init__(self, folder: Path, **limits: int) -> None:
        (folder / "server").mkdir()
        self.harbour = Harbour(folder / "server")
        self.harbour.publish(1)
        self.fleet = replace(self.harbour.fleet, clock=SystemClock(), limits=ServerLimits(**limits))
        self.maker = DeltaMaker(self.fleet, Event())
        self.blobs: dict[int, Digest] = {}
        for counter in (11, 12, 13, 14):
            bundle = Bundle.open(make_bundle(folder / str(counter), shift=counter))
            for path in (folder / str(counter) / "blobs" / "sha256").iterdir():
                data = path.read_bytes()
                blob = Descriptor(Digest.of(data), len(data))
                self.fleet.blobs.put(blob, iter([data]))
            self.fleet.store.access.add_release(
                PublishedRelease(
                    f"linear/{counter}", "1", str(bundle.manifest.digest), bundle.manifest.size, 0
                )
            )
            self.blobs[counter] = bundle.card.artifacts[0].blob.descriptor().digest

    def runs(self, **devices: int) -> None:
        self.harbour.enrol(*devices)
        for name, counter in devices.items():
            self.harbour.store.registry.change(name, active=f"linear/{counter}")

    def known(self) -> dict[tuple[int, int], Delta]:
        names = {str(digest): counter for counter, digest in self.blobs.items()}
        return {(names[d.base], names[d.new]): d for d in self.fleet.store.access.deltas()}


def test_a_rollout_waits_for_the_bases_that_most_devices_run(tmp_path: Path) -> None:
    quay = Quay(tmp_path, delta_bases=1)
    quay.runs(a=11, b=12, c=12)
    assert quay.maker.prepare("linear/13") == 1
    assert quay.known().keys() == {(12, 13)}
    assert quay.maker.ask("linear/11", "linear/13")
    assert quay.maker.turn() == 1
    assert quay.known().keys() == {(12, 13), (11, 13)}
    assert quay.maker.ask("linear/11", "linear/13")
    assert quay.maker.turn() == 0, "nothing is made twice"


def test_wishes_are_bounded(tmp_path: Path) -> None:
    quay = Quay(tmp_path, delta_queue=2)
    wishes = [quay.maker.ask(f"linear/{n}", "linear/14") for n in (11, 12, 13, 11)]
    assert wishes == [True, True, False, True]


def test_a_base_that_is_gone_is_bridged_by_a_chain(tmp_path: Path) -> None:
    quay = Quay(tmp_path)
    for base, new in ((11, 12), (12, 13)):
        quay.maker.ask(f"linear/{base}", f"linear/{new}")
        assert quay.maker.turn() == 1
    old = tmp_path / "old"
    old.write_bytes(quay.fleet.blobs.path(quay.blobs[11]).read_bytes())
    quay.fleet.blobs.remove(quay.blobs[11])
    quay.maker.ask("linear/11", "linear/13")
    assert quay.maker.turn() == 1
    found = quay.known()[11, 13]
    assert found.patch and found.patch_bytes < found.full_bytes
    apply(old, quay.fleet.blobs.path(Digest(found.patch)), tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == quay.fleet.blobs.path(quay.blobs[13]).read_bytes()


def test_a_direct_patch_takes_the_place_of_a_longer_chain(tmp_path: Path) -> None:
    quay = Quay(tmp_path)
    for base, new in ((11, 12), (12, 13), (11, 13)):
        quay.maker.ask(f"linear/{base}", f"linear/{new}")
        quay.maker.turn()
    known = quay.known()
    assert known[11, 13].patch_bytes < known[11, 12].patch_bytes + known[12, 13].patch_bytes


def test_a_chosen_device_asks_for_its_delta(tmp_path: Path) -> None:
    harbour = Harbour(tmp_path)
    harbour.publish(1, 2)
    harbour.enrol("a", "b")
    harbour.deliver(1, "a", "b")
    harbour.start(2, ALL)
    harbour.settle()
    assert ("digits/1", "digits/2") in harbour.asked
