"""Changing who may sign: thresholds, rotation, revocation, on one machine and on several."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tuf.api.metadata import Root, Timestamp

from fakes.bundles import make_bundle
from fakes.operator import Stage, release
from skerry.cli.main import main
from skerry.devices.errors import InputError, TrustError
from skerry.devices.ids import DeviceId
from skerry.updater.repository import Holders, OnlineKeys, OnlinePublic
from skerry.updater.repository.ceremony import added_key, merged, revoked_key, threshold
from skerry.updater.repository.keys import PublicKey
from skerry.updater.repository.signers import load_key, make_key
from skerry.updater.repository.signing import newest_root, sign
from skerry.updater.repository.staging import Staging
from skerry.updater.trust import Refusal, Rule, rules

DEV = DeviceId("dev-1")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.sign(release(1))
    stage.publish()
    stage.director.assign(DEV, release(1))
    stage.device().assignment()
    return stage


def _assigned(stage: Stage) -> int:
    found = stage.device().assignment()
    assert found is not None
    return found.release.counter


def _rotate_targets_key(stage: Stage) -> Staging:
    """Add a second targets key that is here, then revoke the first."""
    staging = Staging(stage.operator, stage.clock)
    old = newest_root(stage.operator.image).roles["targets"].keyids[0]
    new = make_key(stage.operator.folder / "keys" / "new.pem")
    stage.operator.key_here(new.public_key.keyid, "file:keys/new.pem")

    def edit(root: Root) -> None:
        added_key("targets", new.public_key)(root)
        revoked_key("targets", old)(root)

    staging.change_targets_keys(edit)
    staging.sign()
    assert staging.finish() == ["image/2.root.json", "image/3.targets.json"]
    return staging


def test_a_targets_key_is_rotated_and_devices_follow(stage: Stage) -> None:
    _rotate_targets_key(stage)
    stage.publish()
    stage.sign(release(2))
    stage.publish()
    stage.director.assign(DEV, release(2))
    assert _assigned(stage) == 2


def test_a_revoked_targets_key_signs_nothing_more(stage: Stage, tmp_path: Path) -> None:
    thief = tmp_path / "thief"
    shutil.copytree(stage.operator.folder, thief)
    _rotate_targets_key(stage)
    stage.publish()
    before = dict(stage.image_store.files)
    stage.operator = type(stage.operator)(thief, stage.clock)
    stage.sign(release(2), release(3))
    image, _ = stage.operator.files()
    with pytest.raises(Refusal) as caught:
        stage.image.publish(image)
    assert caught.value.rule is Rule.SIGNATURES
    assert stage.image_store.files == before


def test_the_root_key_is_rotated_over_several_versions(stage: Stage) -> None:
    for number in range(3):
        staging = Staging(stage.operator, stage.clock)
        old = newest_root(stage.operator.image).roles["root"].keyids[0]
        new = make_key(stage.operator.folder / "keys" / f"root-new-{number}.pem")
        stage.operator.key_here(new.public_key.keyid, f"file:keys/root-new-{number}.pem")

        def edit(root: Root, new=new, old=old) -> None:
            added_key("root", new.public_key)(root)
            revoked_key("root", old)(root)

        staging.change_root_keys(edit)
        staging.sign()
        version = number + 2
        assert staging.finish() == [
            f"director/{version}.root.json",
            f"image/{version}.root.json",
        ]
    stage.publish()
    assert _assigned(stage) == 1
    assert stage.device("dev-2").assignment() is None


def test_a_server_is_replaced_and_the_old_one_is_believed_no_more(
    stage: Stage, tmp_path: Path
) -> None:
    old_director = stage.director
    keys = OnlineKeys.generate(tmp_path / "new-server")
    staging = Staging(stage.operator, stage.clock)
    staging.change_online_keys(OnlinePublic.decode(keys.public))
    staging.sign()
    assert len(staging.finish()) == 3
    image, _ = stage.operator.files()
    with pytest.raises(InputError, match="does not name this server's key"):
        stage.image.publish(image)
    stage.image = type(stage.image)(stage.image_store, keys, stage.clock)
    stage.director = type(stage.director)(stage.director_store, keys, stage.clock)
    stage.fetcher.serve("https://fleet.example/image/", stage.image.read)
    stage.publish()
    assert _assigned(stage) == 1
    # The old server still has its keys; what it signs now reaches nobody.
    stage.director = old_director
    old_director._sign(DEV, None)
    with pytest.raises(Refusal, match="director/timestamp") as caught:
        stage.device().assignment()
    assert caught.value.rule is Rule.SIGNATURES


def test_fast_forward_is_undone_by_new_server_keys(stage: Stage, tmp_path: Path) -> None:
    """A thief of the timestamp key drives the version up; new keys make devices forget it."""
    current = stage.image._store.read("timestamp.json")
    assert current is not None

    evil = rules.parsed(Timestamp, "timestamp", current).signed
    evil.version = 2**31
    stolen = stage.keys.image["timestamp"]
    stage.image_store.write({"timestamp.json": sign(evil, [stolen])})
    assert _assigned(stage) == 1
    stage.image_store.write({"timestamp.json": current})
    with pytest.raises(Refusal) as caught:
        stage.device().assignment()
    assert caught.value.rule is Rule.ROLLBACK
    keys = OnlineKeys.generate(tmp_path / "new-server")
    staging = Staging(stage.operator, stage.clock)
    staging.change_online_keys(OnlinePublic.decode(keys.public))
    staging.sign()
    staging.finish()
    stage.image = type(stage.image)(stage.image_store, keys, stage.clock)
    stage.director = type(stage.director)(stage.director_store, keys, stage.clock)
    stage.fetcher.serve("https://fleet.example/image/", stage.image.read)
    stage.publish()
    assert _assigned(stage) == 1


def test_two_of_three_sign_on_machines_of_their_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, holders=Holders(root_keys=3, root_threshold=2, targets_keys=2))
    folder = stage.operator.folder
    away = tmp_path / "holder"
    away.mkdir()
    for number in (2, 3):
        shutil.move(folder / "keys" / f"root-{number}.pem", away)
    config = json.loads((folder / "repository.json").read_bytes())
    config["signers"] = {k: v for k, v in config["signers"].items() if v[-5] not in "23"}
    (folder / "repository.json").write_text(json.dumps(config))
    repo = ["--repo", str(folder)]
    assert main(["keys", "threshold", "1", "--role", "root", *repo, "--yes"]) == 0
    staged = folder / "staged" / "image" / "2.root.json"
    assert staged.exists()
    copies = []
    for name in ("image", "director"):
        copy = away / f"{name}.json"
        shutil.copy(folder / "staged" / name / "2.root.json", copy)
        copies.append(str(copy))
    assert main(["keys", "sign", *copies, "--key", str(away / "root-2.pem"), "--yes"]) == 0
    assert main(["keys", "merge", *copies, *repo]) == 0
    assert not staged.exists()
    assert main(["keys", "verify", *repo]) == 0
    stage.publish()
    assert stage.device().assignment() is None


def test_a_stranger_s_signature_helps_nobody(tmp_path: Path) -> None:
    stage = Stage(tmp_path, holders=Holders(root_keys=2, root_threshold=2))
    for path in (stage.operator.folder / "keys").glob("root-2.pem"):
        path.rename(tmp_path / "away.pem")
    config = stage.operator.folder / "repository.json"
    config.write_text(config.read_text().replace("file:keys/root-2.pem", "hsm:absent"))
    operator = type(stage.operator)(stage.operator.folder, stage.clock)
    keep = {k: v for k, v in operator._places.signers.items() if v.startswith("file:")}
    config.write_text(json.dumps({"signers": keep, "schema": 1}))
    operator = type(stage.operator)(stage.operator.folder, stage.clock)
    staging = Staging(operator, stage.clock)
    staging.change_root_keys(threshold("root", 1))
    staging.sign()
    assert staging.finish() == []
    stranger = tmp_path / "stranger.pem"
    make_key(stranger)
    copies = [tmp_path / "a.json", tmp_path / "b.json"]
    for copy, name in zip(copies, ("image", "director"), strict=True):
        shutil.copy(operator.folder / "staged" / name / "2.root.json", copy)
    words = [str(copy) for copy in copies]
    assert main(["keys", "sign", *words, "--key", str(stranger), "--yes"]) == 0
    assert main(["keys", "merge", *words, "--repo", str(operator.folder)]) == 0
    assert staging.finish() == []
    assert main(["keys", "sign", *words, "--key", str(tmp_path / "away.pem"), "--yes"]) == 0
    assert main(["keys", "merge", *words, "--repo", str(operator.folder)]) == 0
    assert staging.names() == []


def test_a_release_collects_signatures_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, holders=Holders(targets_keys=2, targets_threshold=2))
    folder = stage.operator.folder
    away = tmp_path / "targets-2.pem"
    shutil.move(folder / "keys" / "targets-2.pem", away)
    config = json.loads((folder / "repository.json").read_bytes())
    config["signers"] = {k: v for k, v in config["signers"].items() if "targets-2" not in v}
    (folder / "repository.json").write_text(json.dumps(config))
    repo = ["--repo", str(folder)]
    bundle = make_bundle(tmp_path / "bundle")
    assert main(["release", "sign", str(bundle), *repo]) == 0
    assert type(stage.operator)(folder, stage.clock).releases() == []
    copy = tmp_path / "copy.json"
    shutil.copy(folder / "staged" / "image" / "2.targets.json", copy)
    assert main(["keys", "sign", str(copy), "--key", str(away), "--yes"]) == 0
    assert main(["keys", "merge", str(copy), *repo]) == 0
    assert [str(r.id) for r in type(stage.operator)(folder, stage.clock).releases()] == ["linear/1"]


def test_what_expires_is_signed_anew(stage: Stage) -> None:
    staging = Staging(stage.operator, stage.clock)
    assert staging.renew(60 * 86_400) == []
    stage.clock.advance(330 * 86_400)
    assert len(staging.renew(60 * 86_400)) == 3
    staging.sign()
    assert len(staging.finish()) == 3
    stage.publish()
    stage.clock.advance(300 * 86_400)
    stage.image.refresh()
    assert _assigned(stage) == 1


def test_a_role_is_never_left_without_enough_keys(stage: Stage) -> None:
    staging = Staging(stage.operator, stage.clock)
    keyid = newest_root(stage.operator.image).roles["targets"].keyids[0]
    with pytest.raises(InputError, match="0 keys would be left"):
        staging.change_targets_keys(revoked_key("targets", keyid))
    with pytest.raises(InputError, match="1 keys would be left where 2"):
        staging.change_root_keys(threshold("root", 2))
    assert staging.names() == []


def test_one_change_at_a_time(stage: Stage) -> None:
    staging = Staging(stage.operator, stage.clock)
    staging.change_root_keys(threshold("root", 1))
    with pytest.raises(InputError, match="waits for signatures"):
        staging.change_root_keys(threshold("root", 1))
    assert len(staging.abandon()) == 2
    assert staging.names() == []


def test_copies_of_other_metadata_are_not_merged(stage: Stage) -> None:
    one, two = stage.image_store.files["1.root.json"], stage.director_store.files["1.root.json"]
    with pytest.raises(InputError, match="not copies"):
        merged(one, two)


def test_a_dangerous_step_asks(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    keyid = newest_root(stage.operator.image).roles["targets"].keyids[0]
    other = stage.operator.folder / "keys" / "other.pem"
    assert main(["keys", "make", str(other)]) == 0
    repo = ["--repo", str(stage.operator.folder)]
    add = ["keys", "add", f"{other}.pub", "--key", str(other), "--role", "targets", *repo]
    assert main(add) == 2
    assert "--yes" in capsys.readouterr().err
    assert main([*add, "--yes"]) == 0
    assert main(["keys", "revoke", keyid[:10], "--role", "targets", *repo, "--yes"]) == 0
    said = capsys.readouterr().err
    assert "may no longer sign targets" in said
    assert main(["keys", "status", *repo, "--json"]) == 0
    roles = json.loads(capsys.readouterr().out)["roles"]
    held = [r for r in roles if (r["repository"], r["role"]) == ("image", "targets")]
    assert held[0]["keys"] == [PublicKey.decode(Path(f"{other}.pub").read_bytes()).key.keyid]


def test_verifying_finds_what_is_wrong(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = ["--repo", str(stage.operator.folder)]
    assert main(["keys", "verify", *repo]) == 4
    assert "blob is missing" in capsys.readouterr().out
    root = stage.operator.folder / "director" / "1.root.json"
    root.write_bytes(root.read_bytes().replace(b'"threshold":1', b'"threshold":2'))
    assert main(["keys", "verify", *repo, "--json"]) == 4
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"what": "director/1.root.json", "good": False} in [
        {"what": f["what"], "good": f["good"]} for f in findings
    ]


def test_a_server_takes_no_root_that_does_not_follow(stage: Stage, tmp_path: Path) -> None:
    other = Stage(tmp_path / "other")
    image, director = other.operator.files()
    before = dict(stage.image_store.files)
    with pytest.raises(TrustError):
        stage.image.publish(image)
    with pytest.raises(TrustError):
        stage.director.publish(director)
    assert stage.image_store.files == before


def test_every_command_that_is_written_about_exists(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (root / "docs" / "trust.md").read_text()
    named = set(re.findall(r"skerry (keys|release) ([a-z]+)", text))
    assert len(named) > 10
    for command, action in sorted(named):
        with pytest.raises(SystemExit) as caught:
            main([command, action, "--help"])
        assert caught.value.code == 0, (command, action)
    capsys.readouterr()


def test_a_lost_key_file_blocks_nobody_where_enough_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = Holders(root_keys=3, root_threshold=2, targets_keys=3, targets_threshold=2)
    stage = Stage(tmp_path, holders=three)
    folder = stage.operator.folder
    lost = load_key(folder / "keys" / "root-3.pem").public_key.keyid
    for role in ("root", "targets"):
        (folder / "keys" / f"{role}-3.pem").unlink()
    repo = ["--repo", str(folder)]
    assert main(["release", "sign", str(make_bundle(tmp_path / "bundle")), *repo]) == 0
    assert "targets-3.pem is not here" in capsys.readouterr().err
    assert main(["keys", "renew", "--within", "400", *repo, "--yes"]) == 0
    assert main(["keys", "revoke", lost, "--role", "root", *repo, "--yes"]) == 0
    assert not list((folder / "staged").rglob("*.json"))
    assert lost not in newest_root(stage.operator.image).roles["root"].keyids
    assert main(["keys", "verify", *repo]) == 0


def test_a_release_that_could_not_be_signed_is_not_left_staged(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    key = stage.operator.folder / "keys" / "targets-1.pem"
    good = key.read_bytes()
    words = ["release", "sign", str(make_bundle(tmp_path / "bundle"))]
    words += ["--repo", str(stage.operator.folder)]
    key.write_bytes(b"damaged")
    assert main(words) == 2
    key.write_bytes(good)
    assert main(words) == 0
    assert [str(one.id) for one in stage.operator.releases()] == ["linear/1"]
