"""How a device judges expiry: by its clock, by signed times, and by a policy that the root carries.

A clock may be wrong, and a device may have none. Each timestamp says when it was signed, so what
was once accepted is a lower bound of the time for ever after. How much more may be believed is the
operator's to decide, and is signed in the root:
`"skerry": {"expiry": {"clockless": …, "media_s": …}}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from tuf.api.metadata import Root, Timestamp

from skerry.updater.trust.rules import Refusal, Rule

__all__ = ["ExpiryPolicy", "check_clock", "policy_of", "signed_at", "stamped"]

_TOLERANCE_S = 86_400.0


@dataclass(frozen=True, slots=True)
class ExpiryPolicy:
    """What a root allows.

    Attributes:
        clockless: whether a device whose clock is behind may go by signed times alone. It cannot
            notice then that somebody withholds news from it.
        media_s: seconds for which what a server signed may have expired, where it is read from a
            folder or stick that was carried to the device. Roots and releases never may.
    """

    clockless: bool = False
    media_s: float = 0.0

    def document(self) -> dict[str, Any]:
        """As it stands in the root's `skerry` field."""
        return {"expiry": {"clockless": self.clockless, "media_s": int(self.media_s)}}


class _Expiry(msgspec.Struct, frozen=True):
    clockless: bool = False
    media_s: int = 0


class _Field(msgspec.Struct, frozen=True):
    expiry: _Expiry = _Expiry()


class _Stamp(msgspec.Struct, frozen=True):
    signed_at: int


def policy_of(root: Root) -> ExpiryPolicy:
    """The policy that `root` carries; the strict one where it carries none.

    Raises:
        Refusal: it carries something else under that name.
    """
    field = root.unrecognized_fields.get("skerry", {})
    try:
        said = msgspec.convert(field, _Field).expiry
    except msgspec.ValidationError as error:
        raise Refusal(Rule.FORM, "root", f"its expiry policy cannot be read: {error}") from error
    return ExpiryPolicy(said.clockless, float(max(0, said.media_s)))


def stamped(now: float) -> dict[str, Any]:
    """What a timestamp says of the moment it was signed: no earlier can it be read."""
    return {"skerry": {"signed_at": int(now)}}


def signed_at(timestamp: Timestamp | None) -> float:
    """When `timestamp` was signed, in seconds since the epoch; 0 where it does not say."""
    if timestamp is None or "skerry" not in timestamp.unrecognized_fields:
        return 0.0
    try:
        stamp = msgspec.convert(timestamp.unrecognized_fields["skerry"], _Stamp)
    except msgspec.ValidationError as error:
        problem = f"the time of its signing cannot be read: {error}"
        raise Refusal(Rule.FORM, "timestamp", problem) from error
    return float(stamp.signed_at)


def check_clock(timestamp: Timestamp, now: float, policy: ExpiryPolicy) -> None:
    """A clock behind the time of signing cannot judge expiry, unless the policy does without.

    Raises:
        Refusal: it is behind by more than a day, and the policy asks for a clock.
    """
    behind = signed_at(timestamp) - now
    if behind > _TOLERANCE_S and not policy.clockless:
        raise Refusal(
            Rule.CLOCK,
            "timestamp",
            f"it was signed {behind / 86_400:.0f} days after what this machine's clock says",
            remedy="set the clock, or let devices do without one by `skerry keys policy`",
        )
