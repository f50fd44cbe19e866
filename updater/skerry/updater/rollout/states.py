"""The states of a rollout and of a device in it: one table each."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from skerry.devices.errors import InputError
from skerry.updater.rollout.policy import Policy

__all__ = [
    "DEVICE_TABLE",
    "ROLLOUT_TABLE",
    "Assignment",
    "DeviceEvent",
    "DeviceState",
    "Rollout",
    "RolloutState",
    "RolloutVerb",
    "device_after",
    "rollout_after",
]

RolloutState = Literal["draft", "running", "paused", "done", "aborted", "superseded"]
RolloutVerb = Literal["start", "pause", "resume", "abort", "finish", "supersede"]

ROLLOUT_TABLE: Final[dict[tuple[RolloutState, RolloutVerb], RolloutState]] = {
    ("draft", "start"): "running",
    ("draft", "abort"): "aborted",
    ("running", "pause"): "paused",
    ("running", "abort"): "aborted",
    ("running", "finish"): "done",
    ("running", "supersede"): "superseded",
    ("paused", "resume"): "running",
    ("paused", "abort"): "aborted",
    ("paused", "supersede"): "superseded",
    # A finished rollout still serves devices that join later, and a regression re-opens it.
    ("done", "pause"): "paused",
    ("done", "abort"): "aborted",
    ("done", "supersede"): "superseded",
}

DeviceState = Literal["chosen", "assigned", "updating", "succeeded", "failed", "late", "withdrawn"]
DeviceEvent = Literal[
    # decided here
    "offer",
    "confirm",
    "lapse",
    "withdraw",
    # told by the device
    "update_started",
    "downloaded",
    "trial_started",
    "committed",
    "golden_failed",
    "rolled_back",
    "refused",
    "capture",  # about no update: moves nothing
]

_PROGRESS: Final[tuple[DeviceEvent, ...]] = ("update_started", "downloaded", "trial_started")
_FAILURE: Final[tuple[DeviceEvent, ...]] = ("golden_failed", "rolled_back", "refused")


def _open(state: DeviceState) -> dict[tuple[DeviceState, DeviceEvent], DeviceState]:
    """The rows of a device that has been asked and has not answered."""
    rows: dict[tuple[DeviceState, DeviceEvent], DeviceState] = {
        (state, "confirm"): "succeeded",
        (state, "committed"): "succeeded",
        (state, "withdraw"): "withdrawn",
    }
    rows.update({(state, event): "updating" for event in _PROGRESS})
    rows.update({(state, event): "failed" for event in _FAILURE})
    return rows


DEVICE_TABLE: Final[dict[tuple[DeviceState, DeviceEvent], DeviceState]] = {
    **_open("chosen"),
    ("chosen", "offer"): "assigned",
    **_open("assigned"),
    ("assigned", "lapse"): "late",
    **_open("updating"),
    ("updating", "lapse"): "late",
    **_open("late"),
    # An answer can be overtaken by the truth.
    ("succeeded", "rolled_back"): "failed",
    ("failed", "withdraw"): "failed",
    ("failed", "committed"): "succeeded",
    ("withdrawn", "committed"): "succeeded",
    **{("withdrawn", event): "failed" for event in _FAILURE},
}


def rollout_after(state: RolloutState, verb: RolloutVerb) -> RolloutState:
    """The state after `verb`.

    Raises:
        InputError: `verb` cannot be done in `state`.
    """
    after = ROLLOUT_TABLE.get((state, verb))
    if after is None:
        allowed = sorted(v for s, v in ROLLOUT_TABLE if s == state and v not in _OWN_VERBS)
        raise InputError(
            f"a rollout that is {state} cannot {verb}",
            remedy=f"it can {' or '.join(allowed)}" if allowed else "create another rollout",
        )
    return after


_OWN_VERBS: Final = {"finish", "supersede"}


def device_after(state: DeviceState, event: DeviceEvent) -> DeviceState:
    """The state after `event`; an event that means nothing in `state` leaves it as it is."""
    return DEVICE_TABLE.get((state, event), state)


class Assignment(msgspec.Struct, frozen=True):
    """One device in one rollout.

    Attributes:
        device: its id.
        stage: index of the stage that chose it.
        state: where it stands.
        offered_at: when the director was told, seconds since the epoch; 0 before.
        since: when `state` was entered, seconds since the epoch.
        reason: why it failed, or "".
        recalled: whether the offer was taken back.
        delta_bytes, full_bytes: what the update cost on the wire, and what it would have in full.
    """

    device: str
    stage: int
    state: DeviceState = "chosen"
    offered_at: float = 0.0
    since: float = 0.0
    reason: str = ""
    recalled: bool = False
    delta_bytes: int = 0
    full_bytes: int = 0


class Rollout(msgspec.Struct, frozen=True):
    """A release on its way to a target set.

    Attributes:
        id: `r1`, `r2`, …
        release: `model/counter`.
        policy: stages and thresholds.
        state: where it stands.
        stage: index of the stage it is in.
        targets: device ids; empty for every device of the tenant, also those that join later.
        reason: why it waits or stopped.
        forgiven: failed devices that an operator has seen and resumed over.
        reverted_by: id of the rollout that takes the devices back to the policy's fallback.
        created_at, started_at: seconds since the epoch; 0 if not yet.
        assignments: the devices chosen so far.
    """

    id: str
    release: str
    policy: Policy
    state: RolloutState = "draft"
    stage: int = 0
    targets: tuple[str, ...] = ()
    reason: str = ""
    forgiven: tuple[str, ...] = ()
    reverted_by: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    assignments: tuple[Assignment, ...] = ()
