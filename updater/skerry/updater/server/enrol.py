"""How a device comes in, and how it shows from then on that it is the same one."""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from skerry.devices.enrolment import Enrolled, EnrolmentRequest, encode_root
from skerry.devices.errors import InputError, TrustError
from skerry.devices.identity import claimed_device, public_key_digest, verify_assertion
from skerry.devices.ids import DeviceId
from skerry.devices.profile import PROFILE_LIMIT_BYTES
from skerry.updater.server.admission import CLAIM_PREFIX, hash_token, new_token
from skerry.updater.server.ca import public_key_of
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.records import Claim, Device

__all__ = ["ClaimFile", "RenewRequest", "admit", "create_claim", "identify", "renew"]

_ROOT = "1.root.json"
_NEW_NAME_BYTES = 4


class ClaimFile(msgspec.Struct, frozen=True):
    """What an operator hands to a device.

    Attributes:
        server: the base URL.
        token: good for one enrolment.
        image_root, director_root: SHA-256 (hex) of the first roots, for the device to check.
        ca: PEM of the authority that the server is verified by; "" for the system's.
    """

    server: str
    token: str
    image_root: str
    director_root: str
    device: str = ""
    expires_at: float = 0.0
    ca: str = ""


class RenewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/renew`: a PEM certificate request, for the same key or a new one."""

    csr: str


def create_claim(fleet: Fleet, device: str, minutes: float) -> ClaimFile:
    """A new claim, for any device or for the one named.

    Raises:
        InputError: nothing is published yet, or name or time are out of range.
    """
    if device:
        DeviceId(device)
    if not 0 < minutes <= fleet.limits.claim_minutes:
        raise InputError(
            f"a claim cannot last {minutes:g} minutes",
            where="minutes",
            remedy=f"choose at most {fleet.limits.claim_minutes:g}",
        )
    image, director = _roots(fleet)
    token, now = new_token(CLAIM_PREFIX), fleet.clock.now()
    expires = now + minutes * 60
    fleet.store.registry.add_claim(Claim(hash_token(token), now, expires, device))
    return ClaimFile(
        fleet.url,
        token,
        hashlib.sha256(image).hexdigest(),
        hashlib.sha256(director).hexdigest(),
        device,
        expires,
        fleet.ca,
    )


def admit(fleet: Fleet, request: EnrolmentRequest) -> Enrolled:
    """Enrol a device by its claim.

    Raises:
        TrustError: the claim does not let it in.
        InputError: the request is malformed, the name is taken, or nothing is published yet.
    """
    image, director = _roots(fleet)
    now = fleet.clock.now()
    claim = fleet.store.registry.claim(hash_token(request.token))
    if claim is None:  # before any cryptography is spent on it
        raise TrustError("no such claim", where="token", remedy="ask the operator for a new one")
    profile = request.profile.encode()
    if len(profile) > PROFILE_LIMIT_BYTES:
        raise InputError(f"a profile of {len(profile)} bytes is too long", where="profile")
    # A repeated request whose first answer was lost gets the name that it was given then.
    device = DeviceId(request.name or claim.used_by or claim.device or _new_name())
    issued = fleet.authority.issue(request.csr.encode(), device, fleet.tenant, now)
    wanted = Device(
        id=str(device),
        key_digest=str(public_key_digest(issued.key)),
        certificate=issued.pem,
        not_after=issued.not_after,
        enrolled_at=now,
        profile=profile.decode(),
    )
    known = fleet.store.registry.enrol(hash_token(request.token), wanted, now)
    if known is wanted:
        fleet.store.audit.append(f"device:{known.id}", "device.enrol", known.id, "", now)
    return Enrolled(
        device=known.id,
        tenant=str(fleet.tenant),
        audience=fleet.url,
        certificate=known.certificate,
        ca=fleet.authority.pem,
        image_root=encode_root(image),
        director_root=encode_root(director),
        mqtt=fleet.mqtt,
    )


def renew(fleet: Fleet, device: Device, request: RenewRequest) -> Device:
    """A new certificate for a device that has shown who it is.

    Raises:
        InputError: the request is malformed.
    """
    now = fleet.clock.now()
    issued = fleet.authority.issue(request.csr.encode(), DeviceId(device.id), fleet.tenant, now)
    key = str(public_key_digest(issued.key))
    fleet.store.registry.renew(device.id, issued.pem, key, issued.not_after)
    fleet.store.audit.append(f"device:{device.id}", "device.renew", device.id, "", now)
    return msgspec.structs.replace(
        device, certificate=issued.pem, key_digest=key, not_after=issued.not_after
    )


def identify(fleet: Fleet, assertion: str, audience: str) -> Device:
    """Whose assertion this is.

    Raises:
        TrustError: nobody's that may come in.
    """
    try:
        claimed = claimed_device(assertion)
    except InputError as error:
        raise TrustError(str(error), where="assertion") from error
    device = fleet.store.registry.device(str(claimed))
    if device is None:
        raise TrustError(f"no device {claimed} is enrolled", where="assertion")
    if device.revoked_at:
        raise TrustError(f"device {claimed} is revoked", where="assertion")
    verify_assertion(assertion, _key(device.certificate), audience, fleet.clock.now())
    return device


@lru_cache(maxsize=20_000)
def _key(certificate: str) -> ec.EllipticCurvePublicKey:
    return public_key_of(certificate)


def _roots(fleet: Fleet) -> tuple[bytes, bytes]:
    image, director = fleet.image.read(_ROOT), fleet.director_store.read(_ROOT)
    if image is None or director is None:
        raise InputError(
            "there are no roots that a device could trust",
            where=fleet.url,
            remedy="publish a release first: skerry release publish",
        )
    return image, director


def _new_name() -> str:
    return f"dev-{secrets.token_hex(_NEW_NAME_BYTES)}"
