"""Every attack that the design names, against an enrolled device.

The attacker holds the network, and in each test the keys that the test's name says; what must never
happen is that a device believes in a release that the operator did not sign for now, and for it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Root, Signed, Snapshot, Targets, Timestamp

from fakes.operator import SERVER, Stage, release
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import SkerryError, TrustError
from skerry.devices.ids import DeviceId
from skerry.updater.fetch import RefusedError
from skerry.updater.repository import Holders, Release
from skerry.updater.repository.ceremony import added_key, revoked_key
from skerry.updater.repository.releases import target_of
from skerry.updater.repository.signers import make_key
from skerry.updater.repository.signing import meta_of, newest, newest_root, sign
from skerry.updater.repository.staging import Staging
from skerry.updater.trust import Refusal, Rule, rules

DEV, OTHER = DeviceId("dev-1"), DeviceId("dev-2")
GOOD, NEXT = release(1), release(2)
EVIL = Release(NEXT.id, "v2", Descriptor(Digest.of(b"evil"), 4))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Release 1 is signed and assigned, and the device has seen it."""
    stage = Stage(tmp_path)
    stage.sign(GOOD)
    stage.publish()
    stage.director.assign(DEV, GOOD)
    assert _believed(stage) == GOOD
    return stage


def _believed(stage: Stage, device: str = "dev-1") -> Release | None:
    found = stage.device(device).assignment()
    return None if found is None else Release(found.release, found.version, found.manifest)


def _refused(stage: Stage, rule: Rule, where: str) -> None:
    """The device refuses by `rule`, says where, and what it kept has not changed."""
    folder = stage.folder / "devices" / "dev-1"
    with pytest.raises(Refusal) as caught:
        stage.device().assignment()
    assert (caught.value.rule, caught.value.where) == (rule, where)
    assert caught.value.exit_code == 4
    assert folder.exists()


class Thief:
    """Whoever has stolen keys of the server and answers in its place."""

    def __init__(self, stage: Stage, kind: str) -> None:
        self._store = stage.image_store if kind == "image" else stage.director_store
        self._prefix = "" if kind == "image" else f"{DEV}/"
        self._keys: Mapping[str, Signer] = (
            stage.keys.image if kind == "image" else stage.keys.director
        )

    def newest(self, kind: type[Signed], role: str) -> Signed:
        data = self._store.read(f"{self._prefix}timestamp.json")
        if role != "timestamp":
            _, data = newest(self._store, role, self._prefix.rstrip("/"))
        assert data is not None
        return rules.parsed(kind, role, data).signed  # type: ignore[type-var]

    def put(self, signed: Signed, role: str, signers: list[Signer] | None = None) -> bytes:
        data = sign(signed, signers or [self._keys[role]])  # type: ignore[type-var]
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        self._store.write({self._prefix + name: data})
        return data

    def vouch(self, **roles: bytes) -> None:
        """Sign a snapshot with those targets, and a timestamp that names it."""
        snapshot = self.newest(Snapshot, "snapshot")
        assert isinstance(snapshot, Snapshot)
        for role, data in roles.items():
            version = rules.parsed(Targets, role, data).signed.version
            snapshot.meta[f"{role}.json"] = meta_of(version, data)
        snapshot.version += 1
        timestamp = self.newest(Timestamp, "timestamp")
        assert isinstance(timestamp, Timestamp)
        timestamp.version += 1
        timestamp.snapshot_meta = meta_of(snapshot.version, self.put(snapshot, "snapshot"))
        self.put(timestamp, "timestamp")

    def targets(self, edit: Callable[[Targets], None], signers: list[Signer] | None = None) -> None:
        """Sign changed targets, and everything above them."""
        targets = self.newest(Targets, "targets")
        assert isinstance(targets, Targets)
        edit(targets)
        targets.version += 1
        self.vouch(targets=self.put(targets, "targets", signers))


def _only(chosen: Release) -> Callable[[Targets], None]:
    target = target_of(chosen)

    def edit(targets: Targets) -> None:
        targets.targets = {target.path: target}

    return edit


def test_arbitrary_software_by_whoever_holds_the_network(stage: Stage) -> None:
    """On the way from the server, the release that is assigned is exchanged for another."""
    stage.director.assign(OTHER, GOOD)
    stranger: list[Signer] = [CryptoSigner.generate_ed25519()]
    forged = Targets(expires=rules.pinned(stage.image_store.files["1.root.json"]).root.expires)
    _only(EVIL)(forged)
    forged.version = 2
    stage.image_store.files["2.targets.json"] = sign(forged, stranger)
    assert _believed(stage) == GOOD  # what is kept and still named needs no fetching
    with pytest.raises(Refusal) as caught:
        stage.device("dev-2").assignment()
    assert (caught.value.rule, caught.value.where) == (Rule.LENGTH_OR_HASH, "image/targets")


def test_what_is_slipped_into_the_server_s_store_is_not_signed_on(stage: Stage) -> None:
    """Who can write the server's files but has no key cannot make it vouch for them."""
    stranger: list[Signer] = [CryptoSigner.generate_ed25519()]
    thief = Thief(stage, "director")
    targets = thief.newest(Targets, "targets")
    _only(EVIL)(targets)  # type: ignore[arg-type]
    targets.version += 1
    thief.put(targets, "targets", stranger)
    stage.clock.advance(5 * 3_600)
    assert _believed(stage) is None
    deltas = Thief(stage, "image").newest(Targets, "deltas")
    deltas.version += 1
    _only(EVIL)(deltas)  # type: ignore[arg-type]
    Thief(stage, "image").put(deltas, "deltas", stranger)
    assert stage.image.refresh()
    _, data = newest(stage.image_store, "deltas")
    assert data is not None
    assert rules.parsed(Targets, "deltas", data).signed.targets == {}


def test_a_compromised_director_alone_invents_a_release(stage: Stage) -> None:
    Thief(stage, "director").targets(_only(EVIL))
    _refused(stage, Rule.DISAGREEMENT, "image/targets")


def test_a_compromised_director_alone_changes_a_release(stage: Stage) -> None:
    stage.sign(NEXT)
    stage.publish()
    Thief(stage, "director").targets(_only(EVIL))
    _refused(stage, Rule.DISAGREEMENT, "director/targets")


@pytest.mark.parametrize("change", ["length", "hash", "version", "counter"])
def test_both_repositories_must_say_the_very_same(stage: Stage, change: str) -> None:
    def edit(targets: Targets) -> None:
        (target,) = targets.targets.values()
        if change == "length":
            target.length += 1
        elif change == "hash":
            target.hashes["sha256"] = "0" * 64
        elif change == "version":
            target.custom["skerry"]["version"] = "v9"
        else:
            target.custom["skerry"]["counter"] = 9

    Thief(stage, "director").targets(edit)
    rule = Rule.FORM if change == "counter" else Rule.DISAGREEMENT
    _refused(stage, rule, "director/targets")


def test_a_compromised_director_rolls_back(stage: Stage) -> None:
    stage.sign(NEXT)
    stage.publish()
    stage.device().committed(NEXT.id)
    Thief(stage, "director").targets(_only(GOOD))
    _refused(stage, Rule.COUNTER, "director/targets")


def test_a_compromised_director_assigns_two_releases(stage: Stage) -> None:
    stage.sign(NEXT)
    stage.publish()

    def edit(targets: Targets) -> None:
        target = target_of(NEXT)
        targets.targets[target.path] = target

    Thief(stage, "director").targets(edit)
    _refused(stage, Rule.FORM, "director/targets")


def test_compromised_timestamp_and_snapshot_keys_alone_sign_no_release(stage: Stage) -> None:
    thief = Thief(stage, "image")
    stranger: list[Signer] = [CryptoSigner.generate_ed25519()]
    thief.targets(_only(EVIL), signers=stranger)
    Thief(stage, "director").targets(_only(EVIL))
    _refused(stage, Rule.SIGNATURES, "image/targets")


def test_compromised_timestamp_and_snapshot_keys_alone_do_not_roll_targets_back(
    stage: Stage,
) -> None:
    old = stage.image_store.files["2.targets.json"]
    stage.sign(NEXT)
    stage.publish()
    assert _believed(stage) == GOOD
    Thief(stage, "image").vouch(targets=old)
    _refused(stage, Rule.ROLLBACK, "image/targets")


def test_every_online_key_of_the_server_alone_signs_no_release(stage: Stage) -> None:
    """Snapshot, timestamp, deltas and the whole director stolen: still no release of their own."""
    deltas: list[Signer] = [stage.keys.image["deltas"]]
    Thief(stage, "image").targets(_only(EVIL), signers=deltas)
    Thief(stage, "director").targets(_only(EVIL))
    _refused(stage, Rule.SIGNATURES, "image/targets")


def test_the_key_of_deltas_signs_no_release(stage: Stage) -> None:
    """A release in the role `deltas` is outside of what is delegated to it."""
    thief = Thief(stage, "image")
    deltas = thief.newest(Targets, "deltas")
    _only(EVIL)(deltas)  # type: ignore[arg-type]
    deltas.version += 1
    thief.vouch(deltas=thief.put(deltas, "deltas"))
    Thief(stage, "director").targets(_only(EVIL))
    _refused(stage, Rule.DISAGREEMENT, "image/targets")


def test_rollback_of_the_whole_image_repository(stage: Stage) -> None:
    old = dict(stage.image_store.files)
    stage.sign(NEXT)
    stage.publish()
    assert _believed(stage) == GOOD
    stage.image_store.files = old
    _refused(stage, Rule.ROLLBACK, "image/timestamp")


def test_freeze(stage: Stage) -> None:
    """The attacker keeps giving the last good answer; the device notices within a day."""
    frozen = dict(stage.image_store.files)
    stage.sign(NEXT)
    stage.publish()
    stage.image_store.files = frozen
    assert _believed(stage) == GOOD
    stage.clock.advance(25 * 3_600)
    _refused(stage, Rule.EXPIRED, "image/timestamp")


def test_freeze_of_the_director(stage: Stage) -> None:
    frozen = dict(stage.director_store.files)
    stage.fetcher.serve(f"{SERVER}/director/dev-1/", lambda name: frozen.get(f"dev-1/{name}"))
    assert _believed(stage) == GOOD
    stage.clock.advance(7 * 3_600)
    _refused(stage, Rule.EXPIRED, "director/timestamp")


def test_mix_and_match_of_snapshots(stage: Stage) -> None:
    older = stage.image_store.files["2.snapshot.json"]
    stage.sign(NEXT)
    stage.publish()
    version, _ = newest(stage.image_store, "snapshot")
    stage.image_store.files[f"{version}.snapshot.json"] = older
    _refused(stage, Rule.LENGTH_OR_HASH, "image/snapshot")


def test_mix_and_match_of_targets(stage: Stage) -> None:
    older = stage.image_store.files["2.targets.json"]
    stage.sign(NEXT)
    stage.publish()
    stage.image_store.files["3.targets.json"] = older
    _refused(stage, Rule.LENGTH_OR_HASH, "image/targets")


@pytest.mark.parametrize("name", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("kind", ["image", "director"])
def test_endless_data(stage: Stage, kind: str, name: str) -> None:
    """However long the answer, a device takes no more than was signed or agreed."""
    device = stage.device("dev-3")
    stage.director.read(DeviceId("dev-3"), "timestamp.json")
    store = stage.image_store if kind == "image" else stage.director_store
    for file in list(store.files):
        if name in file:
            store.files[file] += b" " * 6_000_000
    with pytest.raises(TrustError, match=r"endless|length"):
        device.assignment()


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_wrong_length(stage: Stage, cut: int) -> None:
    stage.sign(NEXT)
    stage.publish()
    data = stage.image_store.files["3.targets.json"]
    stage.image_store.files["3.targets.json"] = data[:cut]
    _refused(stage, Rule.LENGTH_OR_HASH, "image/targets")


def test_another_device_s_assignment(stage: Stage) -> None:
    stage.sign(NEXT)
    stage.publish()
    stage.director.assign(OTHER, NEXT)
    for _ in range(3):
        stage.director._sign(OTHER, NEXT)
    theirs = dict(stage.director_store.files)
    stage.fetcher.serve(f"{SERVER}/director/dev-1/", lambda name: theirs.get(f"dev-2/{name}"))
    _refused(stage, Rule.WRONG_DEVICE, "director/targets")


def test_another_device_s_empty_assignment_takes_nothing_away(stage: Stage) -> None:
    for _ in range(3):
        stage.director._sign(OTHER, None)
    theirs = dict(stage.director_store.files)
    stage.fetcher.serve(f"{SERVER}/director/dev-1/", lambda name: theirs.get(f"dev-2/{name}"))
    _refused(stage, Rule.WRONG_DEVICE, "director/targets")


def test_a_replayed_assignment(stage: Stage) -> None:
    """The device's own, of an hour ago: fresh, rightly signed, and older than what it has seen."""
    replayed = dict(stage.director_store.files)
    stage.sign(NEXT)
    stage.publish()
    stage.clock.advance(3_600)
    stage.director.assign(DEV, NEXT)
    assert _believed(stage) == NEXT
    stage.director_store.files = replayed
    _refused(stage, Rule.ROLLBACK, "director/timestamp")


def test_a_replayed_assignment_after_it_has_expired(stage: Stage) -> None:
    replayed = dict(stage.director_store.files)
    stage.clock.advance(7 * 3_600)
    stage.fetcher.serve(f"{SERVER}/director/dev-1/", lambda name: replayed.get(f"dev-1/{name}"))
    _refused(stage, Rule.EXPIRED, "director/timestamp")


def test_a_threshold_that_is_not_met(tmp_path: Path) -> None:
    stage = Stage(tmp_path, holders=Holders(targets_keys=3, targets_threshold=2))
    stage.sign(GOOD)
    stage.publish()
    stage.director.assign(DEV, GOOD)
    assert _believed(stage) == GOOD
    root = rules.parsed(Root, "root", stage.image_store.files["1.root.json"]).signed
    one = stage.operator.signers(root.roles["targets"].keyids[:1], root.keys)
    Thief(stage, "image").targets(_only(EVIL), signers=list(one))
    _refused(stage, Rule.SIGNATURES, "image/targets")


def test_one_key_under_two_ids_is_one_signature(stage: Stage) -> None:
    """A threshold of two is not met by one key that is listed twice."""
    root = rules.parsed(Root, "root", stage.image_store.files["1.root.json"]).signed
    keyid = root.roles["targets"].keyids[0]
    key = root.keys[keyid]
    signer = stage.operator.signers([keyid], root.keys)[0]
    alias = type(key).from_dict("ab" * 32, key.to_dict())
    root.add_key(alias, "targets")
    root.roles["targets"].threshold = 2
    targets = rules.parsed(Targets, "targets", stage.image_store.files["2.targets.json"])
    targets.sign(signer)
    twin = type(targets.signatures[keyid]).from_dict(
        {"keyid": "ab" * 32, "sig": targets.signatures[keyid].signature}
    )
    targets.signatures["ab" * 32] = twin
    assert rules.signed_by(root, "targets", targets) == (1, 2)


def test_a_root_by_the_old_key_after_rotation(stage: Stage) -> None:
    """Who has found a root key that was rotated away cannot go on from the root it signed."""

    old_root = newest_root(stage.operator.image)
    old = stage.operator.signers(old_root.roles["root"].keyids, old_root.keys)
    new = make_key(stage.operator.folder / "keys" / "new.pem")
    stage.operator.key_here(new.public_key.keyid, "file:keys/new.pem")

    def edit(root: Root) -> None:
        added_key("root", new.public_key)(root)
        revoked_key("root", old[0].public_key.keyid)(root)

    staging = Staging(stage.operator, stage.clock)
    staging.change_root_keys(edit)
    staging.sign()
    staging.finish()
    stage.publish()
    assert _believed(stage) == GOOD
    evil = newest_root(stage.operator.image)
    evil.add_key(old[0].public_key, "root")
    evil.version = 3
    stage.image_store.files["3.root.json"] = sign(evil, old)
    _refused(stage, Rule.SIGNATURES, "image/root")


def test_a_device_that_slept_through_rotations_follows_them_all(stage: Stage) -> None:

    for _ in range(5):
        stage.clock.advance(300 * 86_400)
        staging = Staging(stage.operator, stage.clock)
        staging.renew(100 * 86_400)
        staging.sign()
        assert staging.finish()
    stage.publish()
    assert _believed(stage) == GOOD
    kept = (stage.folder / "devices" / "dev-1" / "image" / "root.json").read_bytes()
    assert rules.parsed(Root, "root", kept).signed.version == 6


def test_a_server_that_forgets_its_roots(stage: Stage) -> None:
    """A 404 for the next root ends the walk; for the timestamp it is a refusal, not a crash."""
    stage.image_store.files.clear()
    with pytest.raises(RefusedError):
        stage.device().assignment()


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"null", b"[" * 9_000, b'{"signed": {"_type": "timestamp"}}', b"\xff\xfe", b"1e9"],
)
def test_nonsense_in_every_place(stage: Stage, data: bytes) -> None:
    stage.sign(NEXT)
    stage.publish()
    stage.director.assign(DEV, NEXT)
    names = [
        "2.root",
        "timestamp",
        *(f"{n}.{r}" for n in (2, 3, 4) for r in ("snapshot", "targets")),
    ]
    for place in ("image", "director/dev-1"):
        for name in names:
            url = f"{SERVER}/{place}/{name}.json"
            stage.fetcher.put(url, data)
            try:
                stage.device().assignment()
            except SkerryError as error:
                assert error.exit_code in {2, 4, 5}, url
            del stage.fetcher.pages[url]
    assert _believed(stage) == NEXT
