"""Encryption of weights: on the server, on the way, and at rest on the device.

What is signed is the digest of the plain blob, so trust and deltas do not change: a sealed blob is
opened, and then matched.
"""

from skerry.updater.trust.sealing.blobs import SealedBlobs
from skerry.updater.trust.sealing.fetch import SealedFetcher
from skerry.updater.trust.sealing.form import (
    ContentKey,
    SealLimits,
    seal,
    seal_from,
    sealed_range,
    sealed_size,
    unseal,
)
from skerry.updater.trust.sealing.wrap import Envelope, kept_key, unwrap, wrap

__all__ = [
    "ContentKey",
    "Envelope",
    "SealLimits",
    "SealedBlobs",
    "SealedFetcher",
    "kept_key",
    "seal",
    "seal_from",
    "sealed_range",
    "sealed_size",
    "unseal",
    "unwrap",
    "wrap",
]
