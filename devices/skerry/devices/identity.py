"""A device's key: made on the device, never leaving it, and what it signs.

The device proves itself over HTTP and MQTT with an assertion: a JWT (RFC 7519, RFC 7523 section 3)
signed with ES256 by the key behind its certificate, for one audience, for at most two minutes.
"""

from __future__ import annotations

import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from skerry.devices.digest import Digest
from skerry.devices.errors import InputError, MissingExtraError, TrustError, UnavailableError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.devices.ids import DeviceId

__all__ = [
    "AssertionLimits",
    "Claims",
    "Identity",
    "claimed_device",
    "csr_public_key",
    "public_key_digest",
    "verify_assertion",
]

_KEY_FILE = "key.pem"
_ALGORITHM = "ES256"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertionLimits:
    """What an assertion or a request for a certificate may look like.

    Attributes:
        token_bytes: longest assertion.
        csr_bytes: longest PEM request.
        life_s: longest time from `iat` to `exp`, in seconds.
        skew_s: how far the two clocks may lie apart, in seconds.
    """

    token_bytes: int = 2_048
    csr_bytes: int = 8_192
    life_s: float = 120.0
    skew_s: float = 60.0


_LIMITS = AssertionLimits()


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified assertion says: who, which one (`jti`, to refuse replays), until when."""

    device: DeviceId
    id: str
    expires: float


class Identity:
    """The device's P-256 key, in a file that only its owner may read.

    Args:
        key: the private key.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def create(cls, folder: Path, disk: Disk | None = None) -> Identity:
        """The key in `folder`, made if there is none.

        Raises:
            InputError: the file there is no P-256 key.
            UnavailableError: the folder cannot be written.
        """
        path, disk = folder / _KEY_FILE, disk or RealDisk()
        if path.exists():
            return cls.load(folder)
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for place in reversed(missing):
                disk.sync_folder(place.parent)
        except OSError as error:
            raise UnavailableError(f"cannot make the folder: {error}", where=folder) from error
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomically(path, pem, mode=0o600, disk=disk)
        return cls(key)

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """The key in `folder`.

        Raises:
            InputError: there is none, or the file is no P-256 key.
        """
        path = folder / _KEY_FILE
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise InputError(
                "no device key", where=path, remedy="enrol this device first: skerry agent enrol"
            ) from error
        except (ValueError, TypeError) as error:
            raise InputError(f"not a private key: {error}", where=path) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise InputError("not a P-256 key", where=path)
        return cls(key)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._key.public_key()

    def agree(self, theirs: ec.EllipticCurvePublicKey) -> bytes:
        """The shared secret of ECDH with a P-256 key; ValueError if that is on another curve."""
        return self._key.exchange(ec.ECDH(), theirs)

    def csr(self, name: str) -> bytes:
        """A PKCS#10 request (PEM) for a certificate, subject CN=`name`, signed with this key."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject)
        return request.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def assertion(
        self, device: DeviceId, audience: str, now: float, *, seconds: float = _LIMITS.life_s
    ) -> str:
        """A signed statement "I am `device`", for `audience`, valid `seconds` from `now`."""
        try:
            import jwt
        except ModuleNotFoundError as error:
            raise MissingExtraError("device", missing="pyjwt", needed_by="identity") from error
        claims = {
            "iss": str(device),
            "sub": str(device),
            "aud": audience,
            "iat": int(now),
            "exp": int(now + seconds),
            "jti": secrets.token_urlsafe(12),
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)


def verify_assertion(
    token: str,
    public_key: ec.EllipticCurvePublicKey,
    audience: str,
    now: float,
    *,
    limits: AssertionLimits = _LIMITS,
) -> Claims:
    """What `token` says, if `public_key` signed it for `audience` and it holds at `now`.

    Raises:
        TrustError: signature, algorithm, audience, time, or the form is wrong.
    """
    import jwt

    if len(token) > limits.token_bytes:
        raise TrustError("an assertion is too long", where="assertion")
    try:
        found = jwt.decode(
            token,
            public_key,
            algorithms=[_ALGORITHM],
            audience=audience,
            options={
                "require": ["iss", "sub", "aud", "iat", "exp", "jti"],
                "strict_aud": True,
                "verify_exp": False,  # times are checked below, against the time handed in
                "verify_iat": False,
            },
        )
    except jwt.PyJWTError as error:
        raise TrustError(f"an assertion was refused: {error}", where="assertion") from error
    return _timely(found, now, limits)


def _timely(found: dict[str, object], now: float, limits: AssertionLimits) -> Claims:
    issued, expires = found["iat"], found["exp"]
    if found["iss"] != found["sub"]:
        raise TrustError("issuer and subject differ", where="assertion")
    if not isinstance(issued, int | float) or not isinstance(expires, int | float):
        raise TrustError("its times are not numbers", where="assertion")
    if expires - issued > limits.life_s:
        raise TrustError(f"it claims to hold {expires - issued:.0f} s", where="assertion")
    if not issued - limits.skew_s <= now <= expires + limits.skew_s:
        raise TrustError(
            f"it holds from {issued:.0f} to {expires:.0f}, and it is {now:.0f}",
            where="assertion",
            remedy="set the device's clock",
        )
    try:
        device = DeviceId(str(found["sub"]))
    except InputError as error:
        raise TrustError(str(error), where="assertion") from error
    return Claims(device, str(found["jti"]), float(expires))


def claimed_device(token: str, *, limits: AssertionLimits = _LIMITS) -> DeviceId:
    """Who `token` claims to be from. Nothing is verified: it tells which public key to verify with.

    Raises:
        InputError: the form is wrong.
    """
    import jwt

    if len(token) > limits.token_bytes:
        raise InputError("an assertion is too long", where="assertion")
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise InputError(f"not an assertion: {error}", where="assertion") from error
    return DeviceId(str(claims.get("sub", "")))


def csr_public_key(pem: bytes, *, limits: AssertionLimits = _LIMITS) -> ec.EllipticCurvePublicKey:
    """The P-256 key that a certificate request is for, once its self-signature is verified.

    Raises:
        InputError: the request is too long, malformed, badly signed, or for another kind of key.
    """
    if len(pem) > limits.csr_bytes:
        raise InputError(f"a request of {len(pem)} bytes is too long", where="csr")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd but legal encodings
            request = x509.load_pem_x509_csr(pem)
            key = request.public_key()
            good = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InputError(f"not a certificate request: {error}", where="csr") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InputError("the request is for another kind of key than P-256", where="csr")
    if not good:
        raise InputError("the request is not signed by its own key", where="csr")
    return key


def public_key_digest(key: ec.EllipticCurvePublicKey) -> Digest:
    """The digest of the key's SubjectPublicKeyInfo (DER): one name for one key."""
    return Digest.of(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
