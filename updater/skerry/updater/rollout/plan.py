"""What a rollout does next: a function from what is known to what is to be done.

`plan` reads a rollout, its devices and the time, and returns actions. It keeps nothing and changes
nothing, so it may be called again at any time, also after a crash between two of its actions: what
was done is in the assignments, and what was not comes out again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from skerry.updater.rollout.actions import (
    Action,
    Choose,
    Confirm,
    DeviceFacts,
    Finish,
    Lapse,
    Offer,
    Revert,
    Step,
    Stop,
    Wait,
    Withdraw,
)
from skerry.updater.rollout.policy import Gates
from skerry.updater.rollout.states import Assignment, Rollout

__all__ = ["plan"]

_OPEN = ("chosen", "assigned", "updating")


def plan(rollout: Rollout, fleet: Sequence[DeviceFacts], now: float) -> tuple[Action, ...]:
    """The actions due at `now`, in the order in which to do them.

    Args:
        rollout: with its assignments.
        fleet: the devices that may be chosen: enrolled, not revoked, able to run the release.
        now: seconds since the epoch.
    """
    if rollout.state in ("aborted", "superseded"):
        return (*_withdrawals(rollout), *_reversal(rollout))
    if rollout.state not in ("running", "done"):
        return ()
    facts = {device.device: device for device in fleet}
    known = _with_confirmed(rollout, facts)
    confirmed = tuple(
        Confirm(new.device)
        for old, new in zip(rollout.assignments, known, strict=True)
        if old.state != new.state
    )
    if reason := _failure(rollout, known) or _breach(rollout.policy.gates, known, facts):
        return (*confirmed, *_stop(rollout, known, reason))
    gone = tuple(Withdraw(a.device) for a in known if a.state in _OPEN and a.device not in facts)
    lapsed = tuple(
        Lapse(a.device)
        for a in known
        if a.state in ("assigned", "updating")
        and a.device in facts
        and now - a.offered_at > rollout.policy.device_timeout_s
    )
    if gone or lapsed:
        return (*confirmed, *gone, *lapsed)  # the next round sees who can take their places
    offers = tuple(Offer(a.device) for a in known if a.state == "chosen")
    if rollout.state == "done":
        last = len(rollout.policy.stages) - 1
        return (*confirmed, *offers, *_choices(rollout, known, fleet, last))
    choices = _choices(rollout, known, fleet, rollout.stage)
    if offers or choices:
        return (*confirmed, *offers, *choices)
    return (*confirmed, _progress(rollout, known, facts, now))


def _with_confirmed(rollout: Rollout, facts: dict[str, DeviceFacts]) -> tuple[Assignment, ...]:
    """The assignments, with devices that already run the release counted as such."""
    return tuple(
        msgspec.structs.replace(a, state="succeeded")
        if a.state in (*_OPEN, "late")
        and a.device in facts
        and facts[a.device].runs == rollout.release
        else a
        for a in rollout.assignments
    )


def _failure(rollout: Rollout, known: Sequence[Assignment]) -> str:
    """Why too many devices have failed, or ""."""
    failed = [a for a in known if a.state == "failed" and a.device not in rollout.forgiven]
    if len(failed) <= rollout.policy.max_failures:
        return ""
    last = max(failed, key=lambda a: (a.since, a.device))
    count = f"{len(failed)} devices failed, last " if len(failed) > 1 else ""
    return f"{count}{last.device}: {last.reason or 'failed'}"


def _breach(gates: Gates, known: Sequence[Assignment], facts: dict[str, DeviceFacts]) -> str:
    """Which gate a device's windows break, or ""."""
    for a in known:
        if a.state != "succeeded" or a.device not in facts:
            continue
        health = facts[a.device].health
        if not health.requests or health.requests < gates.min_requests:
            continue
        rate = health.errors / health.requests
        if gates.error_rate is not None and rate > gates.error_rate:
            return f"{a.device}: {rate:.2%} errors, the gate is {gates.error_rate:.2%}"
        if gates.p99_ms is not None and health.p99_ms > gates.p99_ms:
            return f"{a.device}: p99 {health.p99_ms:.1f} ms, the gate is {gates.p99_ms:g} ms"
        if gates.drift and health.drift == "drift":
            return f"{a.device}: its data has drifted from the reference"
    return ""


def _stop(rollout: Rollout, known: Sequence[Assignment], reason: str) -> Iterator[Action]:
    abort = rollout.policy.on_failure == "abort"
    yield Stop(abort=abort, reason=reason)
    if abort:
        yield from _withdrawals(msgspec.structs.replace(rollout, assignments=tuple(known)))


def _withdrawals(rollout: Rollout) -> Iterator[Action]:
    for a in rollout.assignments:
        if a.state in (*_OPEN, "late", "failed") and not a.recalled:
            yield Withdraw(a.device)


def _reversal(rollout: Rollout) -> Iterator[Action]:
    """The way back for devices that committed before the rollout was aborted."""
    fallback = rollout.policy.fallback
    devices = tuple(a.device for a in rollout.assignments if a.state == "succeeded")
    if rollout.state == "aborted" and fallback and devices and not rollout.reverted_by:
        yield Revert(fallback, devices)


def _choices(
    rollout: Rollout, known: Sequence[Assignment], fleet: Sequence[DeviceFacts], stage: int
) -> tuple[Action, ...]:
    """The devices to add so that `stage` reaches as far as it may."""
    taken = {a.device for a in known if a.state != "withdrawn"}
    targets = set(rollout.targets)
    pool = [d for d in fleet if not targets or d.device in targets]
    free = [d for d in pool if d.device not in taken]
    named = rollout.policy.stages[stage].devices
    if named:
        free = [d for d in free if d.device in named]
        room = len(free)
    else:
        # A late device keeps its offer, but another one is asked in its place, as for one that
        # failed and was forgiven. The total is of what the fleet is now, and counts devices that
        # were chosen and have left it since.
        held = sum(
            a.state not in ("late", "withdrawn")
            and not (a.state == "failed" and a.device in rollout.forgiven)
            for a in known
        )
        total = len(taken | {d.device for d in pool})
        room = rollout.policy.stages[stage].reach(total) - held
    if rollout.policy.max_in_flight is not None:
        flying = sum(a.state in _OPEN for a in known)
        room = min(room, rollout.policy.max_in_flight - flying)
    free.sort(key=lambda d: (not d.online, _lot(rollout.id, d.device)))
    return tuple(Choose(d.device, stage) for d in free[: max(0, room)])


def _lot(rollout: str, device: str) -> bytes:
    """A fixed order that differs between rollouts, so that no device is always the canary."""
    return hashlib.sha256(f"{rollout}\n{device}".encode()).digest()


def _progress(
    rollout: Rollout, known: Sequence[Assignment], facts: dict[str, DeviceFacts], now: float
) -> Action:
    """Whether the current stage is over, and what follows."""
    policy, stage = rollout.policy, rollout.policy.stages[rollout.stage]
    counted = [a for a in known if a.state not in ("late", "withdrawn")]
    succeeded = [a for a in counted if a.state == "succeeded"]
    open_ = sum(a.state in _OPEN for a in counted)
    judged = sum(a.state != "failed" or a.device not in rollout.forgiven for a in counted)
    if counted and not judged and rollout.stage + 1 < len(policy.stages):
        return Step(rollout.stage + 1)  # all that it could ask have failed, and were forgiven
    share = 100 * len(succeeded) / judged if judged > 0 else 0.0
    if not succeeded or len(succeeded) < min(policy.min_successes, judged):
        return Wait(f"{stage.name}: {_waiting(open_, 'no device has committed yet')}")
    if share < policy.success_percent:
        if not open_:
            return Stop(
                abort=policy.on_failure == "abort",
                reason=f"{stage.name}: {share:.0f}% succeeded, "
                f"{policy.success_percent:g}% are needed",
            )
        return Wait(f"{stage.name}: {_waiting(open_, '')}")
    if waits := _unjudged(policy.gates, succeeded, facts):
        return Wait(f"{stage.name}: {waits}")
    left = policy.soak_of(rollout.stage) - (now - max(a.since for a in succeeded))
    if left > 0:
        return Wait(f"{stage.name}: soaking")
    if rollout.stage + 1 < len(policy.stages):
        return Step(rollout.stage + 1)
    return Wait(f"{stage.name}: {_waiting(open_, '')}") if open_ else Finish()


def _waiting(count: int, otherwise: str) -> str:
    if not count:
        return otherwise
    return f"waiting for {count} device{'s' if count > 1 else ''}"


def _unjudged(gates: Gates, succeeded: Sequence[Assignment], facts: dict[str, DeviceFacts]) -> str:
    """Which device has not answered enough requests to be judged, or ""."""
    if not gates.asked or not gates.min_requests:
        return ""
    for a in succeeded:
        seen = facts[a.device].health.requests if a.device in facts else 0
        if seen < gates.min_requests:
            return f"{a.device} has answered {seen} of {gates.min_requests} requests"
    return ""
