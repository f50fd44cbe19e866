"""The fleet's certificate authority (RFC 5280): P-256, one level, short-lived certificates."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically
from skerry.devices.identity import csr_public_key
from skerry.devices.ids import DeviceId, TenantId

__all__ = ["AuthorityLimits", "FleetAuthority", "Issued", "public_key_of"]


@dataclass(frozen=True, slots=True)
class AuthorityLimits:
    """How long certificates last, in days.

    Attributes:
        device_days: of a device. It renews when two thirds have passed.
        server_days: of the fleet server. It renews when two thirds have passed.
        authority_days: of the authority itself.
        skew_minutes: how far a device's clock may lag behind.
    """

    device_days: float = 90
    server_days: float = 90
    authority_days: float = 3650
    skew_minutes: float = 10


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate: PEM, the key it is for, and when it ends (seconds since the epoch)."""

    pem: str
    key: ec.EllipticCurvePublicKey
    not_after: float


class FleetAuthority:
    """Signs device certificates.

    Args:
        key: the authority's private key.
        certificate: its own, self-signed.
    """

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        limits: AuthorityLimits | None = None,
    ) -> None:
        self._key, self._certificate = key, certificate
        self._limits = limits or AuthorityLimits()

    @classmethod
    def create(cls, folder: Path, tenant: TenantId, now: float) -> FleetAuthority:
        """Make an authority and keep it in `folder`: `key.pem` (0600), then `ca.pem`."""
        limits = AuthorityLimits()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, str(tenant)),
                x509.NameAttribute(NameOID.COMMON_NAME, "skerry fleet authority"),
            ]
        )
        begin, end = _life(now, limits.skew_minutes, limits.authority_days)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomically(folder / "key.pem", pem, mode=0o600)
        write_atomically(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
        return cls(key, certificate)

    @classmethod
    def load(cls, folder: Path) -> FleetAuthority:
        """The authority in `folder`.

        Raises:
            InputError: there is none that can be read.
        """
        try:
            key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"no certificate authority: {error}", where=folder) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError("not an elliptic curve key", where=folder)
        return cls(key, certificate)

    @property
    def pem(self) -> str:
        """The authority's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, csr: bytes, device: DeviceId, tenant: TenantId, now: float) -> Issued:
        """A client certificate for the key that signed `csr`, with a subject of our own.

        Raises:
            InputError: the request is malformed, for another kind of key, or not signed by its own.
        """
        key = csr_public_key(csr)
        limits = self._limits
        begin, end = _life(now, limits.skew_minutes, limits.device_days)
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, str(tenant)),
                x509.NameAttribute(NameOID.COMMON_NAME, str(device)),
            ]
        )
        uri = x509.UniformResourceIdentifier(f"skerry:{tenant}/{device}")
        certificate = (
            self._leaf(subject, key, begin, end)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .add_extension(x509.SubjectAlternativeName([uri]), False)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return Issued(pem, key, end.timestamp())

    def issue_server(self, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: float) -> str:
        """A certificate (PEM) for a server that is reached by `hosts`, names or addresses."""
        begin, end = _life(now, self._limits.skew_minutes, self._limits.server_days)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "skerry fleet server")])
        own = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
        certificate = (
            self._leaf(subject, key, begin, end)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), False)
            .add_extension(issuer, False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _leaf(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        """What every certificate has that signs no other."""
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
        )


def public_key_of(certificate: str) -> ec.EllipticCurvePublicKey:
    """The key of a certificate that this authority issued.

    Raises:
        InputError: it is no certificate with such a key.
    """
    try:
        key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    except ValueError as error:
        raise InputError(f"not a certificate: {error}", where="certificate") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InputError("not an elliptic curve key", where="certificate")
    return key


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _life(now: float, skew_minutes: float, days: float) -> tuple[datetime, datetime]:
    at = datetime.fromtimestamp(int(now), UTC)
    return at - timedelta(minutes=skew_minutes), at + timedelta(days=days)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
