"""Stages, thresholds and soak: what a rollout does next, as rules that touch nothing."""

from skerry.updater.rollout.actions import (
    Action,
    Choose,
    Confirm,
    DeviceFacts,
    Finish,
    Health,
    Lapse,
    Offer,
    Revert,
    Step,
    Stop,
    Wait,
    Withdraw,
)
from skerry.updater.rollout.plan import plan
from skerry.updater.rollout.policy import Gates, Policy, Stage, read_policy
from skerry.updater.rollout.states import (
    Assignment,
    DeviceEvent,
    DeviceState,
    Rollout,
    RolloutState,
    RolloutVerb,
    device_after,
    rollout_after,
)

__all__ = [
    "Action",
    "Assignment",
    "Choose",
    "Confirm",
    "DeviceEvent",
    "DeviceFacts",
    "DeviceState",
    "Finish",
    "Gates",
    "Health",
    "Lapse",
    "Offer",
    "Policy",
    "Revert",
    "Rollout",
    "RolloutState",
    "RolloutVerb",
    "Stage",
    "Step",
    "Stop",
    "Wait",
    "Withdraw",
    "device_after",
    "plan",
    "read_policy",
    "rollout_after",
]
