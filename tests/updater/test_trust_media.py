"""Updates that are carried to a device, and devices whose clock cannot be believed."""

from pathlib import Path

import pytest

from fakes.bundles import make_bundle
from fakes.clock import FakeClock
from fakes.operator import SERVER, Stage, release
from skerry.devices.errors import InputError, TrustError
from skerry.devices.ids import DeviceId
from skerry.updater.fetch import Fetcher, RefusedError, fetch_bytes
from skerry.updater.repository import write_media
from skerry.updater.repository.signing import sign
from skerry.updater.repository.staging import Staging
from skerry.updater.sealing import NoKeys, SealedBlobs
from skerry.updater.trust import (
    MEDIA_URL,
    ExpiryPolicy,
    FolderFetcher,
    Refusal,
    Rule,
    TrustedClient,
    rules,
)

DEV = DeviceId("dev-1")
DAY = 86_400.0


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    released = stage.operator.add_release(make_bundle(tmp_path / "bundle"))
    stage.publish()
    stage.director.assign(DEV, released)
    return stage


def _policy(stage: Stage, policy: ExpiryPolicy) -> None:
    staging = Staging(stage.operator, stage.clock)
    staging.change_policy(policy)
    staging.sign()
    assert staging.finish()
    stage.publish()


def _medium(stage: Stage) -> Path:
    place, devices = stage.folder / "stick", [DEV, DeviceId("dev-2")]
    blobs = SealedBlobs(stage.operator.folder, NoKeys())
    write_media(place, stage.image, stage.director, devices, blobs)
    return place


def _client(
    stage: Stage, fetcher: Fetcher, server: str, clock: FakeClock, **more: bool
) -> TrustedClient:
    place = stage.folder / "devices" / "dev-1"
    return TrustedClient(place, fetcher, device=DEV, server=server, clock=clock, **more)


def _carried(stage: Stage, place: Path, clock: FakeClock | None = None) -> int | None:
    stage.device()
    client = _client(stage, FolderFetcher(place), MEDIA_URL, clock or stage.clock, carried=True)
    found = client.assignment()
    return None if found is None else found.release.counter


def test_a_stick_updates_as_a_server_does(stage: Stage) -> None:
    place = _medium(stage)
    assert _carried(stage, place) == 1
    found = stage.device().assignment()
    assert found is not None
    fetcher = FolderFetcher(place)
    url = f"{MEDIA_URL}/blobs/sha256/{found.manifest.digest.hex}"
    found.manifest.digest.check(fetch_bytes(fetcher, url, found.manifest.size), where=url)
    with fetcher.open(url, max_bytes=found.manifest.size, start=10) as body:
        assert body.start == 10
        assert len(b"".join(body)) == found.manifest.size - 10


def test_every_blob_of_the_assigned_release_is_on_the_stick(stage: Stage) -> None:
    place = _medium(stage)
    named = {path.name for path in (place / "blobs" / "sha256").iterdir()}
    kept = {path.name for path in (stage.operator.folder / "blobs" / "sha256").iterdir()}
    assert named == kept


def test_a_stick_that_took_too_long_is_refused_without_a_policy(stage: Stage) -> None:
    place = _medium(stage)
    stage.clock.advance(2 * DAY)
    with pytest.raises(Refusal) as caught:
        _carried(stage, place)
    assert caught.value.rule is Rule.EXPIRED


def test_the_signed_policy_gives_a_stick_its_time_and_no_more(stage: Stage) -> None:
    _policy(stage, ExpiryPolicy(media_s=30 * DAY))
    place = _medium(stage)
    stage.clock.advance(20 * DAY)
    assert _carried(stage, place) == 1
    with pytest.raises(Refusal) as caught:
        stage.device("dev-3").assignment()  # the grace is for what was carried, not for a server
    assert caught.value.rule is Rule.EXPIRED
    stage.clock.advance(20 * DAY)
    with pytest.raises(Refusal) as caught:
        _carried(stage, place)
    assert caught.value.rule is Rule.EXPIRED


def test_a_policy_never_prolongs_releases_or_roots(stage: Stage) -> None:
    _policy(stage, ExpiryPolicy(media_s=3_000 * DAY))
    place = _medium(stage)
    stage.clock.advance(400 * DAY)
    with pytest.raises(Refusal) as caught:
        _carried(stage, place)
    assert (caught.value.rule, caught.value.role) == (Rule.EXPIRED, "root")


def test_an_older_stick_is_a_rollback(stage: Stage, tmp_path: Path) -> None:
    place = _medium(stage)
    stage.sign(release(1, "other"))
    stage.publish()
    assert stage.device().assignment() is not None
    with pytest.raises(Refusal) as caught:
        _carried(stage, place)
    assert caught.value.rule is Rule.ROLLBACK


def test_what_is_not_on_the_stick_is_refused_for_good(tmp_path: Path) -> None:
    fetcher = FolderFetcher(tmp_path)
    (tmp_path / "image").mkdir()
    for url in (f"{MEDIA_URL}/image/2.root.json", f"{MEDIA_URL}/image"):
        with pytest.raises(RefusedError) as caught:
            fetch_bytes(fetcher, url, 10)
        assert caught.value.status == 404
        assert "is not on the medium" in str(caught.value)


def test_a_medium_that_is_empty_or_not_there_is_said_to_be(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(RefusedError, match="holds no medium") as caught:
            fetch_bytes(FolderFetcher(root), f"{MEDIA_URL}/image/timestamp.json", 10)
        assert (caught.value.status, caught.value.where) == (404, str(root))
        assert "server" not in str(caught.value)


@pytest.mark.parametrize("name", ["/../secret", "/a/../../secret", "/link/secret"])
def test_nothing_beside_the_stick_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "link").symlink_to(tmp_path)
    with pytest.raises(InputError):
        fetch_bytes(FolderFetcher(stick), MEDIA_URL + name, 10)
    with pytest.raises(InputError):
        fetch_bytes(FolderFetcher(stick), f"file://{tmp_path}/secret", 10)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    with pytest.raises(TrustError, match="endless"):
        fetch_bytes(FolderFetcher(tmp_path), f"{MEDIA_URL}/a", 99)


def test_a_clock_that_is_behind_cannot_judge_expiry(stage: Stage) -> None:
    stage.device()
    with pytest.raises(Refusal, match="clock") as caught:
        _client(stage, stage.fetcher, SERVER, FakeClock(0.0)).assignment()
    assert caught.value.rule is Rule.CLOCK


def test_a_device_without_a_clock_goes_by_signed_times_where_the_policy_lets_it(
    stage: Stage,
) -> None:
    _policy(stage, ExpiryPolicy(clockless=True))
    stage.device()
    clockless = _client(stage, stage.fetcher, SERVER, FakeClock(0.0))
    found = clockless.assignment()
    assert found is not None and found.release.counter == 1
    # What was signed later is a lower bound of the time from then on.
    targets = stage.operator.targets()
    targets.version += 1
    targets.expires = rules.pinned(stage.image_store.files["1.root.json"]).root.expires
    early = stage.clock.now() + 5 * DAY
    stage.operator.limits = type(stage.operator.limits)(targets_s=5 * DAY)
    stage.operator.sign_targets(stage.operator.next_targets())
    stage.publish()
    assert clockless.assignment() is not None
    stage.clock.advance(6 * DAY)
    assert stage.clock.now() > early
    stage.image.refresh()
    with pytest.raises(Refusal, match="expired") as caught:
        clockless.assignment()
    assert (caught.value.rule, caught.value.role) == (Rule.EXPIRED, "targets")


def test_a_policy_of_another_form_is_refused(stage: Stage) -> None:
    stage.device()
    root = rules.pinned(stage.image_store.files["1.root.json"]).root
    root.version = 2
    root.unrecognized_fields["skerry"] = {"expiry": {"media_s": "for ever"}}
    keys = stage.operator.signers(root.roles["root"].keyids, root.keys)
    stage.image_store.files["2.root.json"] = sign(root, keys)
    with pytest.raises(Refusal, match="policy") as caught:
        stage.device().assignment()
    assert caught.value.rule is Rule.FORM
