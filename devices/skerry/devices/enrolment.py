"""How a device joins a fleet, and what it keeps of that.

The key is made here and stays here; the server gets a certificate request, a one-time claim token
and the profile, and answers with the device's id, certificate and the roots it shall trust. The
answer may be lost: the same token with the same key gets the same answer again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.devices.ids import DeviceId, TenantId
from skerry.devices.profile import Profile

__all__ = [
    "ENROLMENT_LIMIT_BYTES",
    "SERVER_CA",
    "AgentSettings",
    "Enrolled",
    "EnrolmentRequest",
    "MqttAddress",
    "encode_root",
    "enrol",
]

_T = TypeVar("_T")

ENROLMENT_LIMIT_BYTES = 1 << 20
"""The longest enrolment request or answer that is read, in bytes."""

_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}

SERVER_CA = "identity/server-ca.pem"
"""Below a device's home: the authority that the server is verified by; absent for the system's."""


class MqttAddress(msgspec.Struct, frozen=True):
    """Where the broker is reached; `host` "" means the host of the server's URL."""

    host: str
    port: int
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> MqttAddress:
        """Read `mqtt://HOST[:PORT]`, or `mqtts://` for TLS.

        Raises:
            InputError: it is neither.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        standard = _MQTT_PORTS.get(parts.scheme)
        if standard is None or not host or parts.path.strip("/") or parts.query or parts.username:
            remedy = "for example mqtts://fleet.example.org:8883"
            raise InputError(f"{url!r} is no address of a broker", remedy=remedy)
        return cls(host, port or standard, parts.scheme == "mqtts")


class EnrolmentRequest(msgspec.Struct, frozen=True):
    """The body of `POST /v1/enrol`.

    Attributes:
        token: a claim token, used once.
        csr: PEM certificate request.
        profile: the machine.
        name: the device id wished for, or "".
    """

    token: str
    csr: str
    profile: Profile
    name: str = ""

    @classmethod
    def decode(cls, data: bytes) -> EnrolmentRequest:
        """Read a request.

        Raises:
            InputError: too long or malformed.
        """
        return _decode(data, cls, "enrolment request")


class Enrolled(msgspec.Struct, frozen=True):
    """The answer to an enrolment.

    Attributes:
        device, tenant: who this device is.
        audience: the server's canonical URL, which HTTP assertions are for.
        certificate, ca: PEM.
        image_root, director_root: base64 of the root metadata to trust.
        mqtt: where telemetry goes, or None.
    """

    device: str
    tenant: str
    audience: str
    certificate: str
    ca: str
    image_root: str
    director_root: str
    mqtt: MqttAddress | None = None


class AgentSettings(msgspec.Struct, frozen=True):
    """`HOME/agent.json`: what the device knows of itself and its server.

    Attributes:
        server: the base URL requests go to.
        audience: the URL that HTTP assertions are for.
        http: `HOST:PORT` where the runtime answers; port 0 lets the system choose.
        poll_s: seconds between polls.
    """

    server: str
    audience: str
    device: str
    tenant: str
    mqtt: MqttAddress | None = None
    http: str = "127.0.0.1:0"
    poll_s: float = 60.0

    @property
    def device_id(self) -> DeviceId:
        """The device's id."""
        return DeviceId(self.device)

    @property
    def tenant_id(self) -> TenantId:
        """The owner's id."""
        return TenantId(self.tenant)

    @classmethod
    def load(cls, home: Path) -> AgentSettings:
        """Read `home/agent.json`.

        Raises:
            InputError: the device is not enrolled, or the file is malformed.
        """
        path = home / "agent.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(
                "this device is not enrolled", where=home, remedy="run: skerry agent enrol"
            ) from error
        except OSError as error:
            raise UnavailableError(f"cannot read: {error.strerror}", where=path) from error
        return _decode(data, cls, str(path))

    def save(self, home: Path, disk: Disk | None = None) -> None:
        """Write `home/agent.json`, whole or not at all."""
        text = msgspec.json.format(msgspec.json.encode(self, order="deterministic"))
        write_atomically(home / "agent.json", text, disk=disk or RealDisk())


def enrol(
    home: Path,
    server: str,
    token: str,
    post: Callable[[str, bytes], bytes],
    pin: Callable[[Enrolled, bytes, bytes], None],
    *,
    profile: Profile,
    name: str = "",
    http: str = "127.0.0.1:0",
    disk: Disk | None = None,
) -> AgentSettings:
    """Join the fleet of `server`; `home/agent.json` is written last, so a half-made home is none.

    Args:
        home: the device's folder; made if missing.
        server: the base URL.
        token: the claim token.
        post: sends a JSON body to a URL and returns the answer's body.
        pin: keeps the image root and the director root as the ones to trust.
        profile: the machine.
        name: the device id wished for, or "" for the server's choice.
        http: where the runtime shall answer.
        disk: the seam to the filesystem.

    Raises:
        InputError: the home is enrolled already, or the server refuses or answers nonsense.
        UnavailableError: no answer; try again with the same token.
    """
    from skerry.devices.identity import Identity  # brings cryptography, which settings need not

    disk = disk or RealDisk()
    if (home / "agent.json").exists():
        raise InputError(
            "this home is enrolled already", where=home, remedy="name another folder with --home"
        )
    identity = Identity.create(home / "identity", disk)
    csr = identity.csr(name or "device").decode()
    request = EnrolmentRequest(token=token, csr=csr, profile=profile, name=name)
    answer = _decode(post(f"{server}/v1/enrol", msgspec.json.encode(request)), Enrolled, server)
    agent = AgentSettings(
        server=server,
        audience=answer.audience,
        device=str(DeviceId(answer.device)),
        tenant=str(TenantId(answer.tenant)),
        mqtt=answer.mqtt,
        http=http,
    )
    folder = home / "identity"
    write_atomically(folder / "certificate.pem", answer.certificate.encode(), disk=disk)
    write_atomically(folder / "ca.pem", answer.ca.encode(), disk=disk)
    pin(answer, _root(answer.image_root), _root(answer.director_root))
    agent.save(home, disk)
    return agent


def encode_root(metadata: bytes) -> str:
    """Root metadata as the enrolment answer carries it."""
    return base64.b64encode(metadata).decode()


def _root(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"root metadata is not base64: {error}", where="enrolment") from error


def _decode(data: bytes, kind: type[_T], where: str) -> _T:
    if len(data) > ENROLMENT_LIMIT_BYTES:
        raise InputError(f"{len(data)} bytes are too many", where=where)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"malformed: {error}", where=where) from error
