"""Capture orders, signed by the keys that sign releases (`skerry.runtime.capture_order`)."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec
from securesystemslib.signer import Signer

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError
from skerry.runtime.capture_order import PAYLOAD_TYPE, CaptureOrder, signed_bytes
from skerry.updater.repository.offline import OfflineRepository
from skerry.updater.repository.signing import newest_root
from skerry.updater.trust.orders import order_keys

__all__ = ["enveloped", "sign_order"]


def sign_order(order: CaptureOrder, repository: OfflineRepository, clock: Clock) -> bytes:
    """The envelope of `order`, signed with the operators' keys that are here.

    Raises:
        InputError: fewer of them are here than must sign a release.
        TrustError: the repository's root has expired.
    """
    root = newest_root(repository.image)
    data = repository.image.read(f"{root.version}.root.json")
    assert data is not None  # it was just read
    wanted = order_keys(data, clock.now())
    signers = repository.signers(wanted.keys, root.keys)
    if len(signers) < wanted.threshold:
        raise InputError(
            f"{len(signers)} keys for releases are here, and {wanted.threshold} must sign",
            where=repository.folder / "repository.json",
            remedy="order it where as many of them are: `skerry keys status` names them",
        )
    return enveloped(order, signers)


def enveloped(order: CaptureOrder, signers: Sequence[Signer]) -> bytes:
    """The envelope of `order` with a signature of each of `signers`."""
    payload = msgspec.json.encode(order, order="sorted")
    made = [signer.sign(signed_bytes(payload)) for signer in signers]
    document = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"keyid": one.keyid, "sig": base64.b64encode(bytes.fromhex(one.signature)).decode()}
            for one in made
        ],
    }
    return msgspec.json.encode(document)
