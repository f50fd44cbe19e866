"""A signed order to keep raw inputs for a while. Rules; nothing here touches disk or network.

The order is a DSSE envelope (github.com/secure-systems-lab/dsse, protocol 1.0.2) around JSON,
signed by as many different keys as the device asks for. It names one device, one model, an end, and
how much may be kept.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import msgspec

from skerry.devices.errors import TrustError

__all__ = [
    "PAYLOAD_TYPE",
    "CaptureOrder",
    "OrderKey",
    "signed_bytes",
    "stated_order",
    "verified_order",
]

PAYLOAD_TYPE = "application/vnd.skerry.capture.v1+json"
_ENVELOPE_BYTES = 64 << 10
_SIGNATURES = 16
_SIGNATURE_CHARS = 1024  # base64; RSA with 4096 bits takes 684

_Id = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**48)]


class CaptureOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be kept, and until when.

    Attributes:
        id: this order's own; each is carried out once.
        device, model: whom and what it is about.
        until: seconds since the Unix epoch; nothing is kept after it.
        calls, bytes: the most that is kept.
        every: one call in so many.
    """

    id: _Id
    device: _Name
    model: _Name
    until: Annotated[float, msgspec.Meta(ge=0, le=2.0**40)]
    calls: _Count
    bytes: _Count
    every: _Count = 1


class OrderKey(NamedTuple):
    """A key whose orders count.

    Attributes:
        public: its public half, by which two keys are told apart.
        verifies: (signature, data) → whether the key made this signature of the data.
    """

    public: str
    verifies: Callable[[bytes, bytes], bool]


class _Signature(msgspec.Struct, frozen=True):
    keyid: _Name
    sig: Annotated[str, msgspec.Meta(max_length=_SIGNATURE_CHARS)]


class _Envelope(msgspec.Struct, frozen=True):
    payload: str
    payloadType: str
    signatures: Annotated[list[_Signature], msgspec.Meta(max_length=_SIGNATURES)]


def signed_bytes(payload: bytes) -> bytes:
    """What is signed for an order: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def verified_order(
    envelope: bytes,
    keys: Mapping[str, OrderKey],
    *,
    device: str,
    now: float,
    threshold: int = 1,
) -> CaptureOrder:
    """The order in `envelope`, if enough of `keys` have signed it and it is for this device.

    Args:
        keys: by key id.
        now: seconds since the Unix epoch.
        threshold: different keys that must have signed, at least 1.

    Raises:
        TrustError: it is malformed, not signed by enough keys, for another device, or too late.
    """
    order = _read(_authentic(envelope, keys, threshold))
    if order.device != device:
        raise TrustError(f"is for the device {order.device!r}", where="capture order")
    if now >= order.until:
        raise TrustError("its time is over", where="capture order", remedy="sign a new one")
    return order


def stated_order(envelope: bytes) -> CaptureOrder:
    """What `envelope` says, whoever signed it: for those who pass it on, not for the device.

    Raises:
        TrustError: it is malformed.
    """
    return _read(_opened(envelope)[0])


def _read(payload: bytes) -> CaptureOrder:
    try:
        return msgspec.json.decode(payload, type=CaptureOrder)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(f"not an order: {error}", where="capture order") from error


def _authentic(envelope: bytes, keys: Mapping[str, OrderKey], threshold: int) -> bytes:
    """The payload, whose signatures were checked before anything of it was read."""
    payload, pairs = _opened(envelope)
    data = signed_bytes(payload)
    good = {
        keys[name].public
        for name, signature in pairs
        if name in keys and keys[name].verifies(signature, data)
    }
    if len(good) < max(1, threshold):
        raise TrustError(
            f"signed by {len(good)} known keys, {max(1, threshold)} are asked",
            where="capture order",
        )
    return payload


def _opened(envelope: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The payload of an envelope, and its signatures by key id, of which none is checked."""
    if len(envelope) > _ENVELOPE_BYTES:
        raise TrustError(f"more than {_ENVELOPE_BYTES} bytes", where="capture order")
    try:
        outer = msgspec.json.decode(envelope, type=_Envelope)
        payload = base64.b64decode(outer.payload, validate=True)
        pairs = [(one.keyid, base64.b64decode(one.sig, validate=True)) for one in outer.signatures]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, binascii.Error) as error:
        raise TrustError(f"no DSSE envelope: {error}", where="capture order") from error
    if outer.payloadType != PAYLOAD_TYPE:
        raise TrustError("an envelope of something else", where="capture order")
    return payload, pairs
