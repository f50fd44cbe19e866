"""A release signed by a key that never leaves its token: PKCS#11, with SoftHSM as the token."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fakes.bundles import make_bundle
from fakes.operator import Stage
from skerry.cli.main import main
from skerry.devices.errors import SkerryError, UnavailableError
from skerry.devices.ids import DeviceId
from skerry.updater.repository.signers import token_key
from skerry.updater.repository.signing import newest_root

PIN = "1234"
_LIBRARIES = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A token called `release` with a P-256 key under the id 2."""
    pkcs11 = pytest.importorskip("pkcs11")
    library = next((path for path in _LIBRARIES if Path(path).exists()), None)
    if library is None:
        pytest.skip("libsofthsm2.so is not where Debian puts it")
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"], os.environ["PYKCS11LIB"] = str(config), library
    program = shutil.which("softhsm2-util")
    assert program is not None
    words = ["--init-token", "--free", "--label", "release", "--so-pin", PIN, "--pin", PIN]
    subprocess.run([program, *words], check=True, capture_output=True)
    from pkcs11.util.ec import encode_named_curve_parameters

    found = pkcs11.lib(library).get_token(token_label="release")
    with found.open(rw=True, user_pin=PIN) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        parameters.generate_keypair(store=True, id=b"\x02", label="release")
    return "release"


def test_releases_are_signed_by_the_token(tmp_path: Path, token: str) -> None:
    stage = Stage(tmp_path)
    folder = stage.operator.folder
    repo, pin, public = ["--repo", str(folder)], tmp_path / "pin", tmp_path / "token.pub"
    pin.write_text(PIN)
    secret = ["--passphrase-file", str(pin)]
    file_key = newest_root(stage.operator.image).roles["targets"].keyids[0]
    assert main(["keys", "token", str(public), "--label", token]) == 0
    assert main(["keys", "add", str(public), "--role", "targets", *repo, "--yes"]) == 0
    revoke = ["keys", "revoke", file_key[:12], "--role", "targets", *repo, "--yes", *secret]
    assert main(revoke) == 0
    shutil.rmtree(folder / "keys")
    assert main(["release", "sign", str(make_bundle(tmp_path / "b")), *repo, *secret]) == 0
    stage.operator = type(stage.operator)(folder, stage.clock)
    (released,) = stage.publish()
    stage.director.assign(DeviceId("dev-1"), released)
    found = stage.device().assignment()
    assert found is not None and found.release == released.id


def test_a_wrong_pin_is_said(tmp_path: Path, token: str) -> None:
    from skerry.updater.repository.ceremony import signed_also
    from skerry.updater.repository.signers import open_signer

    stage = Stage(tmp_path)
    key, uri = token_key(token, 2)
    signer = open_signer(uri, key, tmp_path, lambda _: "9999")
    with pytest.raises(SkerryError, match="cannot sign"):
        signed_also(stage.image_store.files["1.root.json"], [signer])


def test_an_absent_token_is_said(token: str) -> None:
    with pytest.raises(UnavailableError, match="no such key"):
        token_key("another", 2)
    with pytest.raises(UnavailableError, match="no such key"):
        token_key(token, 77)
