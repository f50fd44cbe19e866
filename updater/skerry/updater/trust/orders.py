"""Whose orders a device follows: those whose keys sign its releases. A rule; nothing is fetched."""

from __future__ import annotations

from typing import NamedTuple

from securesystemslib.signer import SSlibKey

from skerry.updater.trust import rules

__all__ = ["OrderKeys", "order_keys"]


class OrderKeys(NamedTuple):
    """Who may sign orders.

    Attributes:
        keys: raw Ed25519 public keys, 32 bytes each, by key id.
        threshold: how many of them must.
    """

    keys: dict[str, bytes]
    threshold: int


def order_keys(root: bytes, now: float) -> OrderKeys:
    """The Ed25519 keys of the role `targets` in the image repository's root, and its threshold.

    Keys of other kinds (tokens have P-256) sign releases, but no orders.

    Args:
        root: the root that this device has accepted.
        now: seconds since the Unix epoch.

    Raises:
        Refusal: it is no root that signs itself, or has expired.
    """
    trusted = rules.pinned(root)
    rules.check_root_fresh(trusted, now)
    role, known = trusted.root.roles["targets"], trusted.root.keys
    keys = {}
    for keyid in role.keyids:
        key = known[keyid]
        if isinstance(key, SSlibKey) and key.keytype == "ed25519":
            keys[keyid] = bytes.fromhex(key.keyval["public"])
    return OrderKeys(keys, role.threshold)
