"""The attacks that an update must stand, each with its test; and those on archives."""

import ast
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from skerry.devices.errors import InputError
from skerry.runtime.bundle.card import TensorSpec, Tolerance
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle
from skerry.updater import delta

ATTACKS = {
    "arbitrary software": "test_trust_attacks.test_arbitrary_software_by_whoever_holds_the_network",
    "rollback": "test_trust_attacks.test_rollback_of_the_whole_image_repository",
    "freeze": "test_trust_attacks.test_freeze",
    "fast-forward": "test_keys_ceremony.test_fast_forward_is_undone_by_new_server_keys",
    "mix-and-match": "test_trust_attacks.test_mix_and_match_of_targets",
    "endless data": "test_trust_attacks.test_endless_data",
    "wrong length": "test_trust_attacks.test_wrong_length",
    "wrong device": "test_trust_attacks.test_another_device_s_assignment",
    "revoked key": "test_keys_ceremony.test_a_revoked_targets_key_signs_nothing_more",
    "threshold not met": "test_trust_attacks.test_a_threshold_that_is_not_met",
    "key rotation with an old root": "test_trust_attacks.test_a_root_by_the_old_key_after_rotation",
    "an old root, many rotations later": (
        "test_trust_attacks.test_a_device_that_slept_through_rotations_follows_them_all"
    ),
    "compromised director alone": (
        "test_trust_attacks.test_a_compromised_director_alone_invents_a_release"
    ),
    "compromised timestamp and snapshot keys alone": (
        "test_trust_attacks.test_compromised_timestamp_and_snapshot_keys_alone_sign_no_release"
    ),
    "delta bomb": "test_sealed_update.test_a_delta_bomb_is_not_unpacked",
    "path traversal in archive": "test_attack_list.test_an_archive_is_never_unpacked",
    "symlink in a package": "test_attack_list.test_a_symlink_in_a_package_is_not_followed",
    "replayed assignment": "test_trust_attacks.test_a_replayed_assignment",
    "a content key exchanged": "test_sealed_update.test_another_key_than_the_signed_one_is_refused",
    "sealing taken away": "test_sealed_update.test_the_key_is_signed_with_the_release",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_has_its_test(attack: str) -> None:
    module, _, name = ATTACKS[attack].partition(".")
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _hostile(weights: bytes) -> bytes:
    """An archive that would write beside itself, wherever it is unpacked."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("../escaped", "/tmp/escaped", "Data/weight.bin"):
            info = tarfile.TarInfo(name)
            info.size = len(weights)
            archive.addfile(info, io.BytesIO(weights))
        for kind, target in ((tarfile.SYMTYPE, "/etc"), (tarfile.LNKTYPE, "../../escaped")):
            info = tarfile.TarInfo(f"link-{kind.decode()}")
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return out.getvalue()


def test_an_archive_is_never_unpacked(tmp_path: Path) -> None:
    """A package travels and is patched as one blob: its members' names are never paths."""
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    old, new, patch, made = (place / name for name in ("old", "new", "patch", "made"))
    old.write_bytes(_hostile(bytes(range(256)) * 40))
    new.write_bytes(_hostile(bytes(range(255, -1, -1)) * 40))
    delta.create(old, new, patch)
    delta.apply(old, patch, made)
    assert made.read_bytes() == new.read_bytes()
    assert sorted(path.name for path in place.iterdir()) == ["made", "new", "old", "patch"]
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name]


@pytest.mark.parametrize("link", ["file", "folder", "nowhere"])
def test_a_symlink_in_a_package_is_not_followed(tmp_path: Path, link: str) -> None:
    package, secret = tmp_path / "m.mlpackage", tmp_path / "secret"
    (package / "Data").mkdir(parents=True)
    (package / "Manifest.json").write_text("{}")
    secret.mkdir()
    (secret / "key").write_text("secret")
    target = {"file": secret / "key", "folder": secret, "nowhere": tmp_path / "none"}[link]
    (package / "Data" / "weight.bin").symlink_to(target)
    x = np.zeros((1, 4), np.float32)
    artifact = ArtifactFile(
        path=package,
        format="coreml",
        precision="fp16",
        inputs=("x",),
        outputs=("y",),
        tolerance=Tolerance(0.0),
        golden={"y": x},
    )
    with pytest.raises(InputError, match="neither a file nor a folder"):
        write_bundle(
            tmp_path / "b",
            model="m",
            version="1",
            inputs=[TensorSpec("x", "float32", (-1, 4))],
            outputs=[TensorSpec("y", "float32", (-1, 4))],
            artifacts=[artifact],
            golden_inputs={"x": x},
        )
    assert not (tmp_path / "b").exists()
