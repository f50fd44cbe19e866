"""Who is let in: the rule of claims, and tokens of which only the hash is kept."""

from __future__ import annotations

import hashlib
import secrets

from skerry.devices.errors import TrustError
from skerry.updater.server.records import Claim, Device

__all__ = ["CLAIM_PREFIX", "OPERATOR_PREFIX", "check_claim", "hash_token", "new_token"]

CLAIM_PREFIX = "skc_"
"""How a claim token begins, so that a leaked one is recognised."""
OPERATOR_PREFIX = "sko_"
"""How an operator's token begins."""


def new_token(prefix: str) -> str:
    """A token of 256 random bits."""
    return prefix + secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """What is kept of a token. It has 256 random bits, so a plain SHA-256 cannot be searched."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_claim(claim: Claim | None, device: Device, now: float) -> Claim:
    """The rule by which a claim lets `device` in at `now`.

    Raises:
        TrustError: it does not.
    """
    if claim is None:
        raise TrustError("no such claim", where="token", remedy="ask the operator for a new one")
    if claim.used_at:
        if claim.key_digest != device.key_digest:
            raise TrustError(
                "the claim was used by another key",
                where="token",
                remedy="ask the operator for a new one",
            )
    elif now > claim.expires_at:
        raise TrustError(
            "the claim has expired", where="token", remedy="ask the operator for a new one"
        )
    elif claim.device and claim.device != device.id:
        raise TrustError(f"the claim is for {claim.device}", where="token")
    return claim
