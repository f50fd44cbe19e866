"""What a plan reads of the fleet, and what it may tell the server to do."""

from __future__ import annotations

import msgspec

__all__ = [
    "Action",
    "Choose",
    "Confirm",
    "DeviceFacts",
    "Finish",
    "Health",
    "Lapse",
    "Offer",
    "Revert",
    "Step",
    "Stop",
    "Wait",
    "Withdraw",
]


class Health(msgspec.Struct, frozen=True):
    """What a device's windows say of the rollout's release.

    Attributes:
        requests, errors: since the release became active there.
        p99_ms: 99th percentile of latency, milliseconds.
        drift: `ok`, `watch`, `drift`, `too few`, or "" where nothing is known.
    """

    requests: int = 0
    errors: int = 0
    p99_ms: float = 0.0
    drift: str = ""


class DeviceFacts(msgspec.Struct, frozen=True):
    """What is known of one device of the fleet.

    Attributes:
        device: its id.
        online: whether it is connected now.
        runs: the release that it reported as active, with nothing in progress; or "".
        health: its windows under the rollout's release.
    """

    device: str
    online: bool = False
    runs: str = ""
    health: Health = Health()


class Choose(msgspec.Struct, frozen=True, tag=True):
    """Write down that `device` gets the release, in `stage`."""

    device: str
    stage: int


class Offer(msgspec.Struct, frozen=True, tag=True):
    """Let the director assign the release to `device`, and wake it up."""

    device: str


class Confirm(msgspec.Struct, frozen=True, tag=True):
    """`device` runs the release, whatever became of its events."""

    device: str


class Lapse(msgspec.Struct, frozen=True, tag=True):
    """`device` has not answered in time."""

    device: str


class Withdraw(msgspec.Struct, frozen=True, tag=True):
    """Take the offer back from `device`."""

    device: str


class Step(msgspec.Struct, frozen=True, tag=True):
    """Go on to `stage`."""

    stage: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Go no further, because of `reason`; with `abort`, for good."""

    abort: bool
    reason: str


class Revert(msgspec.Struct, frozen=True, tag=True):
    """Give `devices`, which committed, the release `fallback`."""

    fallback: str
    devices: tuple[str, ...]


class Finish(msgspec.Struct, frozen=True, tag=True):
    """Every stage has done what it had to."""


class Wait(msgspec.Struct, frozen=True, tag=True):
    """Nothing to do until something happens: `reason` says what."""

    reason: str


Action = Choose | Offer | Confirm | Lapse | Withdraw | Step | Stop | Revert | Finish | Wait
