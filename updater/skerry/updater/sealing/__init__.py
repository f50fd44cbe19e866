"""Encryption of weights: with the operator, on the server, on the way, and at rest on the device.

What is signed is the digest of the plain blob, so trust and deltas do not change: a sealed blob is
opened, and then matched.
"""

from skerry.updater.sealing.blobs import SealedBlobs
from skerry.updater.sealing.form import (
    ContentKey,
    SealLimits,
    check_key_id,
    plain_size,
    seal,
    sealed_size,
)
from skerry.updater.sealing.keys import Keyring, Keys, NoKeys, purpose_of
from skerry.updater.sealing.parcel import Parcel, parcel_of, parcels
from skerry.updater.sealing.reading import SealedFile
from skerry.updater.sealing.wrap import Agreement, Envelope, unwrap, wrap

__all__ = [
    "Agreement",
    "ContentKey",
    "Envelope",
    "Keyring",
    "Keys",
    "NoKeys",
    "Parcel",
    "SealLimits",
    "SealedBlobs",
    "SealedFile",
    "check_key_id",
    "parcel_of",
    "parcels",
    "plain_size",
    "purpose_of",
    "seal",
    "sealed_size",
    "unwrap",
    "wrap",
]
