"""The device's key and its assertions: what is accepted, and every way to be refused."""

from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from skerry.devices.errors import InputError, TrustError
from skerry.devices.identity import (
    Identity,
    claimed_device,
    csr_public_key,
    public_key_digest,
    verify_assertion,
)
from skerry.devices.ids import DeviceId

NOW = 1_800_000_000.0
ME = DeviceId("gate-7")
SERVER = "https://fleet.example"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("id") / "identity")


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    first = Identity.create(tmp_path / "identity")
    again = Identity.create(tmp_path / "identity")
    assert public_key_digest(first.public_key) == public_key_digest(again.public_key)
    assert (tmp_path / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_missing_or_foreign_key_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="skerry agent enrol"):
        Identity.load(tmp_path)
    (tmp_path / "key.pem").write_text("not a key")
    with pytest.raises(InputError, match="not a private key"):
        Identity.load(tmp_path)
    other = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(
        other.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(InputError, match="not a P-256 key"):
        Identity.load(tmp_path)


def test_an_assertion_says_who_and_until_when(identity: Identity) -> None:
    token = identity.assertion(ME, SERVER, NOW)
    claims = verify_assertion(token, identity.public_key, SERVER, NOW + 5)
    assert claims.device == claimed_device(token) == ME
    assert claims.expires == NOW + 120
    other = verify_assertion(identity.assertion(ME, SERVER, NOW), identity.public_key, SERVER, NOW)
    assert other.id != claims.id


@pytest.mark.parametrize("when", [NOW - 61, NOW + 120 + 61])
def test_outside_its_time_it_is_refused(identity: Identity, when: float) -> None:
    with pytest.raises(TrustError, match="clock"):
        verify_assertion(identity.assertion(ME, SERVER, NOW), identity.public_key, SERVER, when)


def test_another_audience_or_key_is_refused(identity: Identity) -> None:
    token = identity.assertion(ME, SERVER, NOW)
    with pytest.raises(TrustError):
        verify_assertion(token, identity.public_key, "mqtt", NOW)
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(TrustError):
        verify_assertion(token, stranger, SERVER, NOW)


def _claims(**changes: object) -> dict[str, object]:
    good: dict[str, object] = {
        "iss": "gate-7",
        "sub": "gate-7",
        "aud": SERVER,
        "iat": NOW,
        "exp": NOW + 100,
        "jti": "x",
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "gate-8"},
        {"exp": NOW + 3600},
        {"exp": "soon"},
        {"iat": None},
        {"jti": None},
        {"aud": [SERVER]},
        {"iss": "../etc", "sub": "../etc"},
    ],
)
def test_odd_claims_are_refused_though_signed(changes: dict[str, object], tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        token = jwt.encode(_claims(**changes), key, algorithm="ES256")
    except TypeError:
        pytest.skip("the library does not even encode it")
    with pytest.raises(TrustError):
        verify_assertion(token, key.public_key(), SERVER, NOW)


def test_the_algorithm_is_ours_to_choose(identity: Identity) -> None:
    with pytest.raises(TrustError):
        verify_assertion(
            jwt.encode(_claims(), None, algorithm="none"), identity.public_key, SERVER, NOW
        )
    secret = b"x" * 64
    with pytest.raises(TrustError):
        verify_assertion(
            jwt.encode(_claims(), secret, algorithm="HS256"), identity.public_key, SERVER, NOW
        )


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 5000])
def test_garbage_is_bad_input(identity: Identity, token: str) -> None:
    with pytest.raises(InputError):
        claimed_device(token)
    with pytest.raises(TrustError):
        verify_assertion(token, identity.public_key, SERVER, NOW)


def test_a_request_for_a_certificate_proves_its_key(identity: Identity) -> None:
    pem = identity.csr("gate-7")
    assert public_key_digest(csr_public_key(pem)) == public_key_digest(identity.public_key)
    with pytest.raises(InputError):
        csr_public_key(b"-----BEGIN CERTIFICATE REQUEST-----\n")
    with pytest.raises(InputError, match="too long"):
        csr_public_key(pem * 100)
