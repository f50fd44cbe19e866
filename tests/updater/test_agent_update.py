"""The update as a device goes through it, with the network and the fleet in memory."""

from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import BIAS, linear
from fakes.rig import Fleet, Rig
from skerry.devices.errors import (
    BundleError,
    CancelledError,
    DigestMismatch,
    GoldenError,
    QuotaError,
    TrustError,
    UnavailableError,
)
from skerry.devices.ids import ModelName, ReleaseId
from skerry.runtime.experiment import Agreement
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.prepared import Prepared
from skerry.runtime.room import Footprint, SwapLimits
from skerry.runtime.runtime import Runtime
from skerry.updater.agent.download import DownloadLimits, OutsideHoursError
from skerry.updater.agent.health import HealthLimits
from skerry.updater.agent.schedule import Hours
from skerry.updater.agent.update import UpdateLimits
from skerry.updater.fetch import BusyError, RefusedError
from skerry.updater.repository import Release
from skerry.updater.store import slots as rules
from skerry.updater.store.starts import Starts
from skerry.updater.store.store import StoreLimits


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def rig(fleet: Fleet, tmp_path: Path) -> Rig:
    return Rig.enrolled(fleet, tmp_path / "home")


def _installed(fleet: Fleet, rig: Rig, counter: int = 1) -> None:
    fleet.assign(fleet.publish(counter, shift=float(counter)))
    assert rig.poll() == "installed"


def test_nothing_is_assigned(rig: Rig) -> None:
    assert rig.poll() == "idle"
    assert rig.slots == ("", "", "")


def test_a_first_release_is_fetched_tried_and_committed(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig)
    assert rig.slots == ("linear/1", "", "")
    assert rig.serving == "1"
    assert rig.reporter.kinds == ["update_started", "downloaded", "trial_started", "committed"]
    assert rig.poll() == "idle"
    assert not (rig.home / "store/journal.json").exists()


def test_the_second_release_keeps_the_first_as_previous(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    _installed(fleet, rig, 2)
    assert rig.slots == ("linear/2", "linear/1", "")
    assert rig.serving == "2"
    _installed(fleet, rig, 3)
    held = {digest.hex for digest in rig.store.blobs.digests()}
    assert fleet.weights(1).digest.hex not in held
    assert fleet.weights(2).digest.hex in held


def test_documents_and_other_artifacts_are_not_fetched(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig)
    asked = {url.rpartition("/")[2] for url, _ in fleet.fetcher.requests}
    report = fleet.bundles[1].card.documents["report.html"]
    assert report.descriptor().digest.hex not in asked


def test_a_restart_serves_without_a_network(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig)
    asked = len(fleet.fetcher.requests)
    again = Rig(fleet, rig.home)
    assert again.serving == "1"
    assert len(fleet.fetcher.requests) == asked


def test_golden_failure_is_remembered_by_counter(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    bad = fleet.publish(2, shift=2.0)
    rig.models.broken[bad.manifest.digest] = GoldenError("wrong outputs")
    fleet.assign(bad)
    assert rig.poll() == "failed"
    assert (rig.serving, rig.slots) == ("1", ("linear/1", "", ""))
    assert ("golden_failed", "linear/2", "wrong outputs") in rig.reporter.events
    loads = rig.models.loads
    again = Rig(fleet, rig.home, models=rig.models)
    assert [again.poll(), again.poll()] == ["idle", "idle"]
    assert rig.models.loads == loads + 1  # the active release, at the restart
    assert again.reporter.events == [
        ("refused", "linear/2", "it failed here before: wrong outputs")
    ]
    _installed(fleet, again, 3)


def test_errors_on_trial_roll_back(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    rig.models.on_activate = lambda release: release.version == "2" and rig.call(error="engine")
    fleet.assign(fleet.publish(2, shift=2.0))
    assert rig.poll() == "failed"
    assert (rig.serving, rig.slots) == ("1", ("linear/1", "", ""))
    assert rig.reporter.kinds[-1] == "rolled_back"
    assert "1 of 1 calls failed" in rig.reporter.events[-1][2]
    assert rig.watches == []


def test_with_memory_for_one_release_it_updates_and_goes_back(fleet: Fleet, tmp_path: Path) -> None:
    one = SwapLimits(bytes=100, footprint=Footprint(per_byte=0.0, each_bytes=100))
    runtime = Runtime(RuntimeOptions(memory=one))
    rig = Rig.enrolled(fleet, tmp_path / "home", models=runtime)

    def serving() -> tuple[str, str]:
        outputs, release, _ = runtime.answer({"x": np.ones((1, 4), np.float32)})
        version = release.card.version
        right = linear(np.ones((1, 4), np.float32), BIAS + float(version))
        np.testing.assert_allclose(outputs["y"], right, atol=1e-4)
        return version, runtime.state

    _installed(fleet, rig, 1)
    _installed(fleet, rig, 2)
    assert serving() == ("2", "ready")
    fleet.assign(fleet.publish(3, shift=3.0, golden_error=1.0))
    assert rig.poll() == "failed"
    assert serving() == ("2", "ready")
    activate = runtime.activate

    def ill(release: Prepared) -> None:
        activate(release)
        if release.card.version == "4":
            rig.call(error="engine")

    runtime.activate = ill  # type: ignore[method-assign]
    fleet.assign(fleet.publish(4, shift=4.0))
    assert rig.poll() == "failed"
    assert rig.reporter.kinds[-1] == "rolled_back"
    assert serving() == ("2", "ready")
    runtime.close()


def test_a_release_that_is_much_slower_rolls_back(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    for _ in range(200):
        rig.call(seconds=0.004)

    def slowly(release: object) -> None:
        for _ in range(600):
            rig.call(seconds=0.2)

    fleet.assign(fleet.publish(2, shift=2.0))
    rig.models.on_activate = lambda release: slowly(release) if release.version == "2" else None
    assert rig.poll() == "failed"
    assert (rig.serving, rig.slots) == ("1", ("linear/1", "", ""))
    kind, release, reason = rig.reporter.events[-1]
    assert (kind, release) == ("rolled_back", "linear/2") and "4.0 ms before" in reason


@pytest.mark.parametrize(
    ("argmax", "rows", "outcome"),
    [(0.5, 100, "failed"), (0.99, 100, "installed"), (0.5, 9, "installed")],
)
def test_a_release_that_answers_otherwise_rolls_back(
    fleet: Fleet, tmp_path: Path, argmax: float, rows: int, outcome: str
) -> None:
    limits = UpdateLimits(health=HealthLimits(seconds=1.0, agreement=0.9))
    rig = Rig.enrolled(fleet, tmp_path / "home", update=limits)
    _installed(fleet, rig, 1)
    rig.shadow.found = Agreement(rows, rows, argmax, 0.0, 0, 0, 0.0)
    fleet.assign(fleet.publish(2, shift=2.0))
    assert rig.poll() == outcome
    assert rig.shadow.closed


def test_a_first_release_that_fails_on_trial_serves_nothing(fleet: Fleet, rig: Rig) -> None:
    rig.models.on_activate = lambda release: rig.call(error="engine")
    fleet.assign(fleet.publish(1))
    assert rig.poll() == "failed"
    assert rig.serving == ""


def test_a_callers_mistakes_are_not_held_against_a_release(fleet: Fleet, rig: Rig) -> None:
    rig.models.on_activate = lambda release: rig.call(error="signature")
    _installed(fleet, rig)


def test_a_stop_during_the_trial_does_not_count_against_it(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    fleet.assign(fleet.publish(2, shift=2.0))
    for _ in range(5):
        rig.models.on_activate = lambda release, rig=rig: rig.stop.set()
        with pytest.raises(CancelledError):
            rig.poll()
        assert rig.serving == "1"
        rig = Rig(fleet, rig.home)
    assert rig.poll() == "installed"


def test_a_candidate_that_kills_the_process_is_given_up(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    bad = fleet.publish(2, shift=2.0)
    fleet.assign(bad)

    class Killed(BaseException):
        """What a segmentation fault leaves: nothing runs after it."""

    tries = 0
    while True:
        rig.models.broken[bad.manifest.digest] = Killed()  # type: ignore[assignment]
        try:
            outcome = rig.poll()
            break
        except Killed:
            tries += 1
            rig = Rig(fleet, rig.home)
    assert (tries, outcome, rig.serving) == (3, "failed", "1")
    assert "stopped 3 times" in rig.reporter.events[-1][2]


def test_tampered_bytes_are_refused_once_and_installed_when_they_are_right(
    fleet: Fleet, rig: Rig
) -> None:
    release = fleet.publish(1)
    url = fleet.url(fleet.weights(1).digest)
    good = fleet.fetcher.pages[url]
    fleet.fetcher.put(url, good[:-1] + bytes([good[-1] ^ 1]))
    fleet.assign(release)
    for _ in range(3):
        with pytest.raises(DigestMismatch):
            rig.poll()
    assert rig.reporter.kinds == ["update_started", "refused"]
    assert rig.reporter.events[-1][1] == "linear/1"
    fleet.fetcher.put(url, good)
    assert rig.poll() == "installed"


def test_expired_metadata_is_refused_and_changes_nothing(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig)
    fleet.clock.advance(400 * 86_400)
    with pytest.raises(TrustError):
        rig.poll()
    assert rig.reporter.events[-1][:2] == ("refused", "")
    assert rig.serving == "1"


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"schemaVersion": 2}' + b" " * 99])
def test_a_signed_manifest_that_is_none_is_final(fleet: Fleet, rig: Rig, content: bytes) -> None:
    _installed(fleet, rig, 1)
    manifest = fleet.put(content).blob
    release = Release(ReleaseId(ModelName("linear"), 2), "2", manifest)
    fleet.stage.sign(release)
    fleet.stage.publish()
    fleet.assign(release)
    assert rig.poll() == "failed"
    assert (rig.serving, rig.slots) == ("1", ("linear/1", "", ""))
    assert rig.poll() == "idle"
    assert not rig.store.blobs.has(manifest.digest)


def test_a_bundle_that_nothing_here_runs_is_final(fleet: Fleet, rig: Rig) -> None:
    fleet.assign(fleet.publish(1, formats=("tflite",)))
    assert rig.poll() == "failed"
    assert "no engine here runs" in rig.reporter.events[-1][2]


def test_a_blob_beyond_the_limit_is_not_begun(fleet: Fleet, rig: Rig) -> None:
    fleet.assign(fleet.publish(1, golden_rows=200))
    rig = Rig(fleet, rig.home, download=DownloadLimits(blob_bytes=3_000))
    with pytest.raises(TrustError, match="at most 3000"):
        rig.poll()
    golden = fleet.url(fleet.bundles[1].card.golden.descriptor().digest)
    assert golden not in [url for url, _ in fleet.fetcher.requests]


def test_a_missing_blob_is_final(fleet: Fleet, rig: Rig) -> None:
    release = fleet.publish(1)
    del fleet.fetcher.pages[fleet.url(fleet.weights(1).digest)]
    fleet.assign(release)
    assert rig.poll() == "failed"
    asked = len(fleet.fetcher.requests)
    assert rig.poll() == "idle"
    assert "404" in rig.reporter.events[-2][2]
    assert all("/blobs/" not in url for url, _ in fleet.fetcher.requests[asked:])


def test_a_revoked_device_waits_and_holds_nothing_against_the_release(
    fleet: Fleet, rig: Rig
) -> None:
    release = fleet.publish(1)
    url = fleet.url(fleet.weights(1).digest)
    fleet.fetcher.status(url, 403)
    fleet.assign(release)
    with pytest.raises(RefusedError):
        rig.poll()
    fleet.fetcher.status(url, 503, retry_after=7.0)
    with pytest.raises(BusyError) as caught:
        rig.poll()
    assert caught.value.retry_after == 7.0
    fleet.fetcher._statuses.clear()
    assert rig.poll() == "installed"


def test_a_broken_download_goes_on_where_it_was(fleet: Fleet, rig: Rig) -> None:
    release = fleet.publish(1, golden_rows=200)
    golden = fleet.bundles[1].card.golden.descriptor()
    assert golden.size > 5_000
    fleet.fetcher.cut(fleet.url(golden.digest), 2_500)
    fleet.assign(release)
    assert rig.poll() == "installed"
    starts = [start for url, start in fleet.fetcher.requests if url == fleet.url(golden.digest)]
    assert starts == [0, 2_500]


def test_a_download_goes_on_after_a_restart(fleet: Fleet, rig: Rig) -> None:
    release = fleet.publish(1, golden_rows=200)
    golden = fleet.bundles[1].card.golden.descriptor()
    fleet.assign(release)
    fleet.fetcher.cut(fleet.url(golden.digest), 2_500)
    rig = Rig(fleet, rig.home, download=DownloadLimits(resumes=0))
    with pytest.raises(BusyError):
        rig.poll()
    rig = Rig(fleet, rig.home)
    assert rig.poll() == "installed"
    starts = [start for url, start in fleet.fetcher.requests if url == fleet.url(golden.digest)]
    assert starts == [0, 2_500]


def test_a_server_that_ignores_ranges_costs_bytes_and_nothing_else(fleet: Fleet, rig: Rig) -> None:
    release = fleet.publish(1, golden_rows=200)
    fleet.fetcher.ranges = False
    fleet.fetcher.cut(fleet.url(fleet.bundles[1].card.golden.descriptor().digest), 2_500)
    fleet.assign(release)
    assert rig.poll() == "installed"


def test_damage_before_a_resume_is_found_and_fetched_again(fleet: Fleet, rig: Rig) -> None:
    """The bytes that came before the break were wrong, so the resumed whole is: once more."""
    release = fleet.publish(1, golden_rows=200)
    golden = fleet.bundles[1].card.golden.descriptor()
    url = fleet.url(golden.digest)
    good = fleet.fetcher.pages[url]
    fleet.assign(release)
    fleet.fetcher.put(url, b"\0" * len(good))
    fleet.fetcher.cut(url, 2_500)
    rig = Rig(fleet, rig.home, download=DownloadLimits(resumes=0))
    with pytest.raises(BusyError):
        rig.poll()
    fleet.fetcher.put(url, good)
    assert Rig(fleet, rig.home).poll() == "installed"


def test_another_assignment_supersedes_a_stuck_one(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    stuck, wanted = fleet.publish(2, shift=2.0), fleet.publish(3, shift=3.0)
    fleet.fetcher.status(fleet.url(fleet.weights(2).digest), 503)
    fleet.assign(stuck)
    with pytest.raises(UnavailableError):
        rig.poll()
    assert rig.store.now.update.release == "linear/2"
    fleet.assign(wanted)
    assert rig.poll() == "installed"
    assert rig.slots == ("linear/3", "linear/1", "")
    assert rig.store.now.slots.failure(stuck.id) is None


def test_a_withdrawn_assignment_leaves_no_trace(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    stuck = fleet.publish(2, shift=2.0)
    fleet.fetcher.status(fleet.url(fleet.weights(2).digest), 503)
    fleet.assign(stuck)
    with pytest.raises(UnavailableError):
        rig.poll()
    fleet.assign(None)
    assert rig.poll() == "idle"
    assert rig.store.now.update is None
    assert stuck.manifest.digest not in set(rig.store.blobs.digests())


def test_an_interrupted_download_keeps_what_it_has(fleet: Fleet, rig: Rig) -> None:
    fleet.assign(fleet.publish(1, golden_rows=200))
    rig.interrupted.set()
    with pytest.raises(CancelledError):
        rig.poll()
    rig.interrupted.clear()
    assert rig.poll() == "installed"


def test_a_long_download_looks_now_and_then_whether_it_is_wanted(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    fleet.assign(fleet.publish(2, shift=2.0, golden_rows=500))
    wanted = fleet.publish(3, shift=3.0)
    slow = DownloadLimits(bytes_per_s=1_000, look_s=5.0)
    rig = Rig(fleet, rig.home, download=slow)
    with pytest.raises(CancelledError):
        rig.poll()
    before = rig.downloader.fetched_bytes
    with pytest.raises(CancelledError):
        rig.poll()
    assert rig.downloader.fetched_bytes > before  # it went on, and looked again
    fleet.assign(wanted)
    assert rig.poll() == "installed"
    assert rig.slots == ("linear/3", "linear/1", "")


def test_outside_its_hours_a_device_does_not_fetch(fleet: Fleet, rig: Rig) -> None:
    fleet.assign(fleet.publish(1))
    hours = Hours.parse("01:00-02:00")
    wait = hours.wait(fleet.clock.now())
    assert wait > 0
    rig = Rig(fleet, rig.home, download=DownloadLimits(hours=(hours,)))
    with pytest.raises(OutsideHoursError) as caught:
        rig.poll()
    assert caught.value.retry_after == wait
    assert not any("/blobs/" in url for url, _ in fleet.fetcher.requests)
    fleet.clock.advance(wait)
    assert rig.poll() == "installed"


def test_the_rate_is_kept(fleet: Fleet, rig: Rig) -> None:
    fleet.assign(fleet.publish(1, golden_rows=200))
    rig = Rig(fleet, rig.home, download=DownloadLimits(bytes_per_s=1_000))
    before = fleet.clock.monotonic()
    assert rig.poll() == "installed"
    seconds = fleet.clock.monotonic() - before - 5.0  # the trial
    assert seconds == pytest.approx(rig.downloader.fetched_bytes / 1_000, rel=0.01)


def test_what_does_not_fit_the_quota_waits(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    used = rig.store.used_bytes()
    fleet.assign(fleet.publish(2, shift=2.0, golden_rows=500))
    rig = Rig(fleet, rig.home, store=StoreLimits(quota_bytes=used + 3_000, free_bytes=0))
    with pytest.raises(QuotaError):
        rig.poll()
    assert rig.serving == "1"


def test_the_previous_release_makes_room_for_the_next(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    _installed(fleet, rig, 2)
    used = rig.store.used_bytes()
    fleet.assign(fleet.publish(3, shift=3.0))
    rig = Rig(fleet, rig.home, store=StoreLimits(quota_bytes=used + 2_000, free_bytes=0))
    assert rig.poll() == "installed"
    assert rig.slots == ("linear/3", "linear/2", "")


def test_a_damaged_active_release_is_mended(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    _installed(fleet, rig, 2)
    path = rig.store.blobs.path(fleet.weights(2).digest)
    path.write_bytes(path.read_bytes()[:-4] + b"rots")
    rig = Rig(fleet, rig.home)
    assert (rig.serving, rig.slots) == ("1", ("linear/2", "linear/1", ""))
    rig.mend()
    assert rig.serving == "2"


def test_an_active_release_that_kills_the_process_gives_way(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    _installed(fleet, rig, 2)

    class Killed(BaseException):
        """Nothing runs after it, so nothing can be cleared up."""

    rig.models.broken[fleet.bundles[2].manifest.digest] = Killed()  # type: ignore[assignment]
    deaths, end = 0, Starts.end
    while True:
        try:
            Starts.end = lambda self: None  # type: ignore[method-assign]
            again = Rig(fleet, rig.home, models=rig.models)
            break
        except Killed:
            deaths += 1
        finally:
            Starts.end = end  # type: ignore[method-assign]
    assert (deaths, again.serving, again.slots) == (5, "1", ("linear/1", "", ""))
    assert again.reporter.kinds == ["rolled_back"]


def test_an_active_release_that_no_longer_works_gives_way(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 1)
    _installed(fleet, rig, 2)
    rig.models.broken[fleet.bundles[2].manifest.digest] = GoldenError("another engine")
    rig.models.close()
    rig = Rig(fleet, rig.home, models=rig.models)
    assert (rig.serving, rig.slots) == ("1", ("linear/1", "", ""))
    assert rig.reporter.events == [("rolled_back", "linear/2", "another engine")]
    assert rig.poll() == "idle"


def _not_a_patch(old: Path, patch: Path, new: Path) -> None:
    raise BundleError("not a patch")


def test_a_damaged_patch_gives_way_to_the_whole_blob(
    fleet: Fleet, rig: Rig, tmp_path: Path
) -> None:
    rig = Rig(fleet, rig.home, patcher=_not_a_patch)
    _installed(fleet, rig, 1)
    release = fleet.publish(2, shift=2.0)
    old, new = fleet.weights(1), fleet.weights(2)
    fleet.stage.image.add_delta(old.digest, new.digest, fleet.put(b"X"))
    fleet.assign(release)
    assert rig.poll() == "installed"
    assert "patch_failed" in rig.log.events
    assert (fleet.url(new.digest), 0) in fleet.fetcher.requests


def test_a_patch_replaces_the_whole_blob(fleet: Fleet, rig: Rig) -> None:
    release1 = fleet.publish(1)
    fleet.assign(release1)
    new_bytes: list[bytes] = []
    rig = Rig(
        fleet, rig.home, patcher=lambda old, patch, new: new.write_bytes(new_bytes[0]) and None
    )
    assert rig.poll() == "installed"
    release = fleet.publish(2, shift=2.0)
    old, new = fleet.weights(1), fleet.weights(2)
    new_bytes.append(fleet.fetcher.pages.pop(fleet.url(new.digest)))
    patch = fleet.put(b"a small patch")
    fleet.stage.image.add_delta(old.digest, new.digest, patch)
    fleet.assign(release)
    assert rig.poll() == "installed"
    done = rig.reporter.updates[-1]
    assert done.full_bytes - done.delta_bytes == new.size - patch.size
    assert patch.blob.digest not in set(rig.store.blobs.digests())


def test_the_counter_floor_follows_the_commit(fleet: Fleet, rig: Rig) -> None:
    _installed(fleet, rig, 2)
    with pytest.raises(TrustError):
        fleet.assign(fleet.publish(1))
        rig.poll()
    assert rig.serving == "2"


def test_a_full_disk_at_any_report_does_not_lose_the_outcome(fleet: Fleet, rig: Rig) -> None:
    """The outbox cannot be written at the commit: the next look reports it."""
    fleet.assign(fleet.publish(1))
    reporter, tries = rig.reporter, []

    class Full(type(reporter)):  # type: ignore[misc]
        def event(self, kind: str, release: str, **how: object) -> None:
            if kind == "committed" and not tries:
                tries.append(kind)
                raise UnavailableError("the disk is full")
            super().event(kind, release, **how)

    reporter.__class__ = Full
    with pytest.raises(UnavailableError):
        rig.poll()
    assert rig.serving == "1"
    assert rig.store.now.update.state == "committed"
    assert rig.poll() == "idle"
    assert reporter.kinds[-1] == "committed"
    assert rules.named(rig.store.now)
