"""Cuts the power at every single write, sync, rename and unlink of an update, and starts again.

Each scenario is played through once to count its operations, then once for each of them with the
power failing there. What was not synced is then lost, or kept, or half of it by chance; the device
starts from what is left. It must serve the old or the new release at once, without a network, and
come to the same end as without the cut.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.disk import After, CuttableDisk, PowerCut, QuickDisk
from fakes.operator import SERVER
from fakes.rig import Fleet, LightModels, ListReporter, Rig
from skerry.bench.machine import read_machine
from skerry.devices.errors import GoldenError, SkerryError, UnavailableError
from skerry.devices.files import Disk
from skerry.updater.agent.health import HealthLimits
from skerry.updater.agent.update import UpdateLimits
from skerry.updater.delta import create
from skerry.updater.repository import Release
from skerry.updater.sealing import Parcel
from skerry.updater.store.slots import keys_named, named
from skerry.updater.store.store import StoreLimits

LIMITS = StoreLimits(free_bytes=0, checkpoint_bytes=1_000)
UPDATE = UpdateLimits(health=HealthLimits(seconds=1.0), attempts=1_000)
GOLDEN_ROWS = 120


@dataclass(frozen=True)
class Count:
    """What was tried and what came of it."""

    scenario: str
    operations: int
    cuts: int
    survived: int
    old: int
    new: int


class Scenario:
    """A device in `home` before an update, and the fleet that wants it to make one.

    Attributes:
        before, after: the versions that serve before and in the end.
        outcome: the event that says how the update ended.
    """

    name, outcome = "full", "committed"
    before, after = "1", "2"
    sealed = False

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder / "fleet")
        self.home, self.work = folder / "before", folder / "work"
        self.limits, self.reporter = LIMITS, ListReporter()
        rig = Rig.enrolled(self.fleet, self.home, **self.how())
        self.prepare(rig)
        self.now = self.fleet.clock._now

    def how(self) -> dict[str, object]:
        models = LightModels()
        self.equip(models)
        return {
            "store": self.limits,
            "update": UPDATE,
            "models": models,
            "reporter": self.reporter,
        }

    def equip(self, models: LightModels) -> None:
        """Break something, if the scenario is about that."""

    def install(self, rig: Rig, release: Release) -> None:
        self.fleet.assign(release)
        assert rig.poll() == "installed"

    def publish(self, counter: int) -> Release:
        return self.fleet.publish(
            counter, sealed=self.sealed, shift=float(counter), golden_rows=GOLDEN_ROWS
        )

    def prepare(self, rig: Rig) -> None:
        self.install(rig, self.publish(1))
        self.fleet.assign(self.publish(2))

    def start(self, disk: Disk | None = None) -> Rig:
        rig = Rig(self.fleet, self.work, disk=disk or QuickDisk(), **self.how())  # type: ignore[arg-type]
        rig.models.on_activate = lambda release: self.activated(rig, release.version)
        return rig

    def activated(self, rig: Rig, version: str) -> None:
        """A release has begun to serve."""

    def reset(self) -> None:
        self.fleet.clock._now = self.now
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.home, self.work)
        self.reporter = ListReporter()


class Delta(Scenario):
    name = "delta"

    def prepare(self, rig: Rig) -> None:
        self.install(rig, self.publish(1))
        release = self.publish(2)
        self.fleet.assign(release)
        bundles = self.fleet.bundles
        for pick in (lambda card: card.artifacts[0].blob, lambda card: card.golden):
            old, new = (pick(bundles[n].card).descriptor() for n in (1, 2))
            made = self.fleet.folder / "patch"
            create(bundles[1].blobs.path(old.digest), bundles[2].blobs.path(new.digest), made)
            assert made.stat().st_size < new.size
            patch = self.fleet.put(made.read_bytes(), release.key)
            self.fleet.stage.image.add_delta(old.digest, new.digest, patch)
            whole = Parcel(new, release.key)
            del self.fleet.fetcher.pages[f"{SERVER}/blobs/sha256/{whole.name}"]


class First(Scenario):
    name, before, after = "first", "", "1"

    def prepare(self, rig: Rig) -> None:
        self.fleet.assign(self.publish(1))


class Golden(Scenario):
    """The new release does not pass its golden test."""

    name, after, outcome = "golden failure", "1", "golden_failed"

    def equip(self, models: LightModels) -> None:
        if 2 in self.fleet.bundles:
            manifest = self.fleet.bundles[2].manifest.digest
            models.broken[manifest] = GoldenError("other outputs")


class RollBack(Scenario):
    """The new release fails on trial."""

    name, after, outcome = "roll back", "1", "rolled_back"

    def activated(self, rig: Rig, version: str) -> None:
        if version == "2":
            rig.call(error="engine")


class Crowded(Scenario):
    """No room: the previous release has to go before the new one can come."""

    name, before, after = "garbage collection", "2", "3"

    def prepare(self, rig: Rig) -> None:
        super().prepare(rig)
        assert rig.poll() == "installed"
        used = rig.store.used_bytes()
        self.limits = StoreLimits(quota_bytes=used + 3_000, free_bytes=0, checkpoint_bytes=1_000)
        self.fleet.assign(self.publish(3))


class Superseded(Scenario):
    """An update that is stuck half-way gives way to another."""

    name, after = "superseding", "3"

    def prepare(self, rig: Rig) -> None:
        super().prepare(rig)
        url = self.fleet.url(self.fleet.bundles[2].card.golden.descriptor().digest)
        self.fleet.fetcher.cut(url, 2_500)
        rig.downloader._limits = type(rig.downloader._limits)(resumes=0)
        try:
            rig.poll()
        except UnavailableError:
            self.fleet.assign(self.publish(3))
            return
        raise AssertionError("the update was not stuck")


class Sealed(Scenario):
    name, sealed = "sealed", True


class SealedDelta(Delta):
    name, sealed = "sealed delta", True


class SealedRollBack(RollBack):
    name, sealed = "sealed roll back", True


class SealedCrowded(Crowded):
    name, sealed = "sealed garbage collection", True


SCENARIOS: tuple[type[Scenario], ...] = (
    First,
    Scenario,
    Delta,
    Golden,
    RollBack,
    Crowded,
    Superseded,
    Sealed,
    SealedDelta,
    SealedRollBack,
    SealedCrowded,
)


def play(rig: Rig) -> None:
    """Look until there is nothing left to do."""
    for _ in range(6):
        if rig.poll() == "idle" and rig.store.now.update is None:
            return
    raise AssertionError("the device does not come to an end")


def cut_everywhere(
    scenario: Scenario,
    after: After,
    seed: int,
    *,
    twice: bool = False,
    step: int = 1,
) -> Count:
    """Cut at every operation (or every `step`th) of `scenario`, and see what becomes of each.

    Args:
        twice: cut once more, at a random operation of the recovery.
    """
    chance = random.Random(seed)
    scenario.reset()
    disk = CuttableDisk(scenario.work)
    rig = scenario.start(disk)
    play(rig)
    assert rig.serving == scenario.after
    operations, cuts = disk.count, 0
    disk.close()
    served = {scenario.before: 0, scenario.after: 0}
    for at in range(chance.randrange(step), operations, step):
        scenario.reset()
        for cut in [at, *([chance.randrange(operations)] if twice else [])]:
            cuts += _cut(scenario, cut, after, chance)
            version = _serves(scenario)
            assert version in served, f"{scenario.name}: cut at {at}: serves {version!r}"
            served[version] += 1
        _finishes(scenario, f"{scenario.name}, {after}, cut at {at} ({seed})")
    return Count(
        scenario.name,
        operations,
        cuts,
        cuts,
        served[scenario.before],
        served[scenario.after] if scenario.after != scenario.before else 0,
    )


def _cut(scenario: Scenario, at: int, after: After, chance: random.Random) -> bool:
    disk = CuttableDisk(scenario.work, cut_at=at)
    with suppress(PowerCut):
        play(scenario.start(disk))
    disk.crash(after, chance)
    return disk.off


def _serves(scenario: Scenario) -> str:
    """The version that serves after a start without a network."""
    asked = len(scenario.fleet.fetcher.requests)
    rig = scenario.start()
    assert len(scenario.fleet.fetcher.requests) == asked
    return rig.serving


def _finishes(scenario: Scenario, what: str) -> None:
    rig = scenario.start()
    try:
        play(rig)
    except SkerryError as error:
        raise AssertionError(f"{what}: {error}") from error
    assert rig.serving == scenario.after, what
    again = scenario.start()
    assert again.serving == scenario.after, what
    held = set(again.store.blobs.digests())
    assert held == named(again.store.now), f"{what}: blobs that nothing names, or named and gone"
    assert scenario.outcome in scenario.reporter.kinds, f"{what}: the outcome was not reported"
    if scenario.outcome == "committed":
        floors = msgspec.json.decode((scenario.work / "trust/floors.json").read_bytes())
        assert floors == {"linear": int(scenario.after)}, what
    assert set(again.keys.ids()) == keys_named(again.store.now), f"{what}: other keys than needed"
    left = [path.name for path in (scenario.work / "store/downloads").iterdir()]
    assert not left, f"{what}: {left}"


def _rows(file: Path | None, scenarios: set[str]) -> list[dict[str, Any]]:
    """The rows in `file` of `scenarios`, which were cut before."""
    if file is None or not file.exists():
        return []
    rows = json.loads(file.read_text())["rows"]
    return [row for row in rows if row["scenario"] in scenarios]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[kind.name for kind in SCENARIOS],
        help="only this one; the rows of the others stay in FILE",
    )
    args = parser.parse_args()
    chosen = [kind for kind in SCENARIOS if not args.scenario or kind.name in args.scenario]
    before = _rows(args.out, {kind.name for kind in SCENARIOS} - {kind.name for kind in chosen})
    rows = []
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="skerry-power-", dir=base) as name:
        for kind in chosen:
            for after, twice in (("lost", False), ("kept", False), ("torn", False), ("torn", True)):
                folder = Path(name) / f"{kind.__name__}-{after}-{twice}"
                began = time.monotonic()
                count = cut_everywhere(kind(folder), after, args.seed, twice=twice)
                how = {"unsynced": after, "cut_again": twice, "seed": args.seed}
                rows.append({**asdict(count), **how, "seconds": round(time.monotonic() - began, 1)})
                print(json.dumps(rows[-1]), flush=True)
    rows = before + rows
    document = {
        "what": "the power fails at every write, sync, rename and unlink of an update",
        "machine": msgspec.to_builtins(read_machine()),
        "cuts": sum(row["cuts"] for row in rows),
        "survived": sum(row["survived"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    print(f"{document['cuts']} cuts, {document['survived']} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
