"""From an operator's signature to what a device believes, all in memory."""

from pathlib import Path

import pytest

from fakes.operator import SERVER, Stage, release
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import InputError, TrustError
from skerry.devices.ids import DeviceId
from skerry.updater.fetch import BusyError
from skerry.updater.sealing import Parcel
from skerry.updater.trust import Assignment, Refusal, Rule

DEV = DeviceId("dev-1")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_device_without_an_assignment_has_none(stage: Stage) -> None:
    assert stage.device().assignment() is None


def test_an_assigned_release_is_believed(stage: Stage) -> None:
    one = release(1)
    stage.sign(one)
    assert stage.publish() == [one]
    stage.director.assign(DEV, one)
    assert stage.device().assignment() == Assignment(one.id, "v1", one.manifest)
    assert stage.device("dev-2").assignment() is None


def test_the_next_release_follows_and_the_counter_holds(stage: Stage) -> None:
    one, two = release(1), release(2)
    stage.sign(one, two)
    stage.publish()
    stage.director.assign(DEV, two)
    found = stage.device().assignment()
    assert found is not None and found.release == two.id
    stage.device().committed(two.id)
    assert stage.device().assignment() == found
    stage.director.assign(DEV, one)
    with pytest.raises(Refusal, match="older than release 2") as caught:
        stage.device().assignment()
    assert caught.value.rule is Rule.COUNTER


def test_counters_are_separate_for_each_model(stage: Stage) -> None:
    digits, faces = release(5), release(1, "faces")
    stage.sign(digits, faces)
    stage.publish()
    stage.device().committed(digits.id)
    stage.director.assign(DEV, faces)
    found = stage.device().assignment()
    assert found is not None and found.release == faces.id


def test_an_assignment_can_be_taken_back(stage: Stage) -> None:
    one = release(1)
    stage.sign(one)
    stage.publish()
    stage.director.assign(DEV, one)
    assert stage.director.assigned(DEV) == one
    stage.director.assign(DEV, None)
    assert stage.device().assignment() is None


def test_assigning_the_same_again_signs_nothing(stage: Stage) -> None:
    stage.director.assign(DEV, None)
    before = dict(stage.director_store.files)
    stage.director.assign(DEV, None)
    assert stage.director_store.files == before


def test_a_delta_is_found_only_where_one_is_signed(stage: Stage) -> None:
    stage.sign(release(1))
    stage.publish()
    base, new = Digest.of(b"old"), Digest.of(b"new")
    patch = Descriptor(Digest.of(b"patch"), 5)
    device = stage.device()
    device.assignment()
    assert device.delta(base, new) is None
    stage.image.add_delta(base, new, Parcel(patch))
    device.assignment()
    assert device.delta(base, new) == Parcel(patch)
    assert device.delta(new, base) is None


def test_online_metadata_is_renewed_and_stays_believed(stage: Stage) -> None:
    one = release(1)
    stage.sign(one)
    stage.publish()
    stage.director.assign(DEV, one)
    assert stage.image.refresh() is False
    for _ in range(40):
        stage.clock.advance(20 * 3_600)
        stage.image.refresh()
        found = stage.device().assignment()
        assert found is not None and found.release == one.id


def test_the_server_knows_when_operators_must_sign_again(stage: Stage) -> None:
    expires = stage.image.expires()
    assert set(expires) == {"root", "targets"}
    assert all(
        at - stage.clock.now() == pytest.approx(365 * 86_400, abs=2) for at in expires.values()
    )


def test_a_server_that_stops_signing_is_noticed(stage: Stage) -> None:
    stage.device().assignment()
    stage.clock.advance(2 * 86_400)
    with pytest.raises(Refusal, match=r"image/timestamp.*expired") as caught:
        stage.device().assignment()
    assert caught.value.rule is Rule.EXPIRED


def test_an_unreachable_server_is_not_a_refusal(stage: Stage) -> None:
    stage.fetcher.fail_next(BusyError("cannot be reached", where=SERVER))
    with pytest.raises(BusyError):
        stage.device().assignment()
    assert stage.device().assignment() is None


def test_enrolling_twice_is_refused(stage: Stage) -> None:
    stage.device()
    image, director = stage.operator.files()
    with pytest.raises(TrustError, match="already"):
        stage.device().enrol(image["1.root.json"], director["1.root.json"])


def test_damaged_floors_are_not_taken_for_none(stage: Stage) -> None:
    stage.sign(release(1))
    stage.publish()
    stage.director.assign(DEV, release(1))
    device = stage.device()
    (stage.folder / "devices" / "dev-1" / "floors.json").write_bytes(b"{")
    with pytest.raises(InputError, match="damaged"):
        device.assignment()
