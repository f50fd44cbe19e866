"""Whose orders a device follows: those whose keys sign its releases. A rule; nothing is fetched."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SSlibKey

from skerry.runtime.capture_order import OrderKey
from skerry.updater.trust import rules

__all__ = ["OrderKeys", "order_keys"]


class OrderKeys(NamedTuple):
    """Who may sign orders.

    Attributes:
        keys: by key id.
        threshold: how many of them must.
    """

    keys: dict[str, OrderKey]
    threshold: int


def order_keys(root: bytes, now: float) -> OrderKeys:
    """The keys of the role `targets` in the image repository's root, and its threshold.

    Args:
        root: the root that this device has accepted.
        now: seconds since the Unix epoch.

    Raises:
        Refusal: it is no root that signs itself, or has expired.
    """
    trusted = rules.pinned(root)
    rules.check_root_fresh(trusted, now)
    role, known = trusted.root.roles["targets"], trusted.root.keys
    every = {keyid: known[keyid] for keyid in role.keyids}
    keys = {
        keyid: OrderKey(key.keyval["public"], partial(_verifies, key))
        for keyid, key in every.items()
        if isinstance(key, SSlibKey)
    }
    return OrderKeys(keys, role.threshold)


def _verifies(key: SSlibKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), data)
    except UnverifiedSignatureError:  # the signature is another's, or none
        return False
    return True
