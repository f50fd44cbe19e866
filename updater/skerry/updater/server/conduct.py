"""Carries rollouts out: applies what devices told, asks the plan what is due, and does it.

Each step is written down before or after its effect so that a crash between the two is harmless: a
device is chosen in the database before the director names it, and both are done again if need be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from threading import Event, RLock

import msgspec

from skerry.devices.errors import InputError, SkerryError
from skerry.devices.ids import DeviceId, ReleaseId
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.repository import Release
from skerry.updater.rollout import (
    Action,
    Assignment,
    Choose,
    Confirm,
    DeviceEvent,
    Finish,
    Lapse,
    Offer,
    Policy,
    Revert,
    Rollout,
    RolloutVerb,
    Stage,
    Step,
    Stop,
    Wait,
    Withdraw,
    plan,
    rollout_after,
)
from skerry.updater.server.facts import (
    HOLDING,
    check_fallback,
    facts_of,
    formats_of,
    moved,
    told,
)
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.records import Device

__all__ = ["Conductor"]

_LOG = logging.getLogger(__name__)
_STEP_S = 1e-3
_replace = msgspec.structs.replace


class Conductor:
    """The one writer of rollouts in this process.

    Args:
        fleet: what it works on.
        wake: called for a device that has something new to fetch.
        prepare: called with a release before its rollout goes on, to make deltas.
        ask: called with what a chosen device runs and the release it is to run, to make the delta
            between them if there is none yet.
    """

    def __init__(
        self,
        fleet: Fleet,
        wake: Callable[[DeviceId], None],
        prepare: Callable[[str], object],
        ask: Callable[[str, str], object],
    ) -> None:
        self._fleet, self._wake, self._prepare, self._ask = fleet, wake, prepare, ask
        self._lock = RLock()
        self._stirred = Event()
        self._prepared: set[str] = set()
        self._formats: dict[str, frozenset[str]] = {}

    def stir(self) -> None:
        """Something happened: look at the rollouts soon. Any thread."""
        self._stirred.set()

    def wait(self, seconds: float) -> None:
        """Return when stirred, or after `seconds`."""
        self._fleet.clock.wait(self._stirred, seconds)
        self._stirred.clear()

    def create(self, release: str, policy: Policy, targets: Sequence[str]) -> Rollout:
        """A new draft.

        Raises:
            InputError: the release is not published, or a device is not in the fleet.
        """
        known = {str(r.id) for r in self._fleet.image.releases()}
        if str(ReleaseId.parse(release)) not in known:
            names = ", ".join(sorted(known)) or "none"
            raise InputError(
                "is not published", where=release, remedy=f"publish it first; there is {names}"
            )
        check_fallback(release, policy.fallback, known)
        enrolled = {d.id for d in self._fleet.store.registry.devices() if not d.revoked_at}
        named = {*targets, *(d for stage in policy.stages for d in stage.devices)}
        if strangers := sorted(named - enrolled):
            raise InputError(
                f"not in the fleet: {', '.join(strangers[:5])}",
                where="rollout",
                remedy="list the devices with: skerry fleet devices",
            )
        return self._fleet.store.rollouts.add(release, policy, targets, self._fleet.clock.now())

    def change(self, rollout_id: str, verb: RolloutVerb) -> Rollout:
        """Start, pause, resume or abort, as an operator says.

        Raises:
            LookupError: there is no such rollout.
            InputError: it cannot be done in its state, or its release is no longer published.
        """
        with self._lock:
            rollout = self._fleet.store.rollouts.get(rollout_id)
            if rollout is None:
                raise LookupError(f"no rollout {rollout_id[:32]!r}")
            after = _replace(rollout, state=rollout_after(rollout.state, verb), reason="")
            if verb in ("start", "resume"):
                self._release(rollout.release)
            if verb == "start":
                after = _replace(after, started_at=self._next_start())
            if verb == "resume":
                failed = (a.device for a in rollout.assignments if a.state == "failed")
                after = _replace(after, forgiven=tuple(sorted({*rollout.forgiven, *failed})))
            if not self._fleet.store.rollouts.save(after, was=rollout.state):
                raise InputError("the rollout changed meanwhile; look at it again")
            if verb == "start":
                self._supersede(after, ("running", "paused"))
        self.stir()
        return after

    def _next_start(self) -> float:
        """Now, and later than every start before: a clock that ran ahead once was set back."""
        last = max((r.started_at for r in self._fleet.store.rollouts.all()), default=0.0)
        return max(self._fleet.clock.now(), last + _STEP_S)

    def _supersede(self, newer: Rollout, states: Sequence[str]) -> None:
        """End the rollouts in `states` whose devices `newer` takes over.

        One that is done ends only when `newer` is done too: until then, and if `newer` is aborted,
        devices that join get what it gave.
        """
        for rollout in self._fleet.store.rollouts.all():
            covered = not newer.targets or (
                rollout.targets and set(rollout.targets) <= set(newer.targets)
            )
            if rollout.id != newer.id and rollout.state in states and covered:
                reason = f"superseded by {newer.id}"
                after = rollout_after(rollout.state, "supersede")
                ended = _replace(rollout, state=after, reason=reason)
                self._fleet.store.rollouts.save(ended, was=rollout.state)

    def turn(self) -> bool:
        """Do what is due now; whether anything was, so that more may be due at once."""
        with self._lock:
            moved = self._apply_events()
            rollouts = self._fleet.store.rollouts.all()
            devices = [d for d in self._fleet.store.registry.devices() if not d.revoked_at]
            gated = any(r.state in HOLDING and r.policy.gates.asked for r in rollouts)
            totals = self._fleet.store.telemetry.totals() if gated else []
        for rollout in rollouts:
            if rollout.state == "running" and rollout.id not in self._prepared:
                self._prepare(rollout.release)  # may take long: operators can act meanwhile
                self._prepared.add(rollout.id)
        with self._lock:
            for rollout in rollouts:
                now = self._fleet.store.rollouts.get(rollout.id) or rollout
                try:
                    able = [d for d in devices if self._runs_on(now.release, d)]
                    facts = facts_of(now, able, totals, rollouts, self._manifest(now.release))
                    for action in plan(now, facts, self._fleet.clock.now()):
                        moved = self._do(now.id, action) or moved
                except InputError as error:
                    self._stuck(now.id, str(error))
        return moved

    def _stuck(self, rollout_id: str, reason: str) -> None:
        """A rollout cannot do what is due, as its release or its way back was withdrawn.

        It says so, and pauses if it runs; the others go on.
        """
        rollout = self._fleet.store.rollouts.get(rollout_id)
        if rollout is None or rollout.reason == reason:
            return
        _LOG.warning("rollout %s: %s", rollout_id, reason)
        if rollout.state == "running":
            self._end(rollout, "pause", reason)
        else:
            self._fleet.store.rollouts.save(_replace(rollout, reason=reason), was=rollout.state)

    def _apply_events(self) -> bool:
        events = self._fleet.store.rollouts.unapplied(self._fleet.limits.event_batch)
        if not events:
            return False
        held: dict[tuple[str, str], tuple[str, Assignment]] = {}
        for rollout in self._fleet.store.rollouts.all():
            for a in rollout.assignments:
                held[a.device, rollout.release] = (rollout.id, a)  # the newest rollout wins
        changed: dict[tuple[str, str], tuple[str, Assignment]] = {}
        for event in events:
            key = (event.device, event.release)
            if key in held:
                rollout_id, before = held[key]
                held[key] = changed[key] = (rollout_id, told(before, event))
        self._fleet.store.rollouts.apply(list(changed.values()), events)
        return True

    def _do(self, rollout_id: str, action: Action) -> bool:
        """Carry one action out; whether it changed anything."""
        rollouts, now = self._fleet.store.rollouts, self._fleet.clock.now()
        rollout = rollouts.get(rollout_id)
        if rollout is None:
            return False
        match action:
            case Choose(device, stage):
                rollouts.put(rollout_id, Assignment(device, stage, since=now))
                chosen = self._fleet.store.registry.device(device)
                self._ask(chosen.active if chosen else "", rollout.release)
            case Offer(device):
                self._fleet.director.assign(DeviceId(device), self._release(rollout.release))
                self._move(rollout, device, "offer", now)
                self._wake(DeviceId(device))
            case Confirm(device):
                self._move(rollout, device, "confirm", now)
            case Lapse(device):
                self._move(rollout, device, "lapse", now)
            case Withdraw(device):
                self._recall(rollout, device)
                self._move(rollout, device, "withdraw", now)
            case Revert(fallback, devices):
                self._revert(rollout, fallback, devices)
            case Step(stage):
                return rollouts.save(_replace(rollout, stage=stage, reason=""), was=rollout.state)
            case Finish():
                self._supersede(rollout, ("done",))
                return self._end(rollout, "finish", "")
            case Stop(abort, reason):
                return self._end(rollout, "abort" if abort else "pause", reason)
            case Wait(reason):
                if rollout.reason != reason:
                    rollouts.save(_replace(rollout, reason=reason), was=rollout.state)
                return False
        return True

    def _end(self, rollout: Rollout, verb: RolloutVerb, reason: str) -> bool:
        after = _replace(rollout, state=rollout_after(rollout.state, verb), reason=reason)
        done = self._fleet.store.rollouts.save(after, was=rollout.state)
        if done:
            self._fleet.store.audit.append(
                "server", f"rollout.{verb}", rollout.id, reason, self._fleet.clock.now()
            )
        return done

    def _revert(self, rollout: Rollout, fallback: str, devices: Sequence[str]) -> None:
        """Start the rollout that takes committed devices back."""
        policy = Policy(stages=(Stage("back", percent=100),), on_failure="pause")
        back = self.create(fallback, policy, devices)
        self.change(back.id, "start")
        self._fleet.store.rollouts.save(_replace(rollout, reverted_by=back.id), was=rollout.state)
        now = self._fleet.clock.now()
        self._fleet.store.audit.append("server", "rollout.revert", rollout.id, back.id, now)

    def _move(self, rollout: Rollout, device: str, event: DeviceEvent, now: float) -> None:
        before = next((a for a in rollout.assignments if a.device == device), None)
        if before is None:
            return
        after = moved(before, event, now)
        if event == "offer":
            after = _replace(after, offered_at=now, recalled=False)
        if event == "withdraw":
            after = _replace(after, recalled=True)
        self._fleet.store.rollouts.put(rollout.id, after)

    def _recall(self, rollout: Rollout, device: str) -> None:
        """Let the director name what the device runs, unless another rollout has taken it over."""
        for other in self._fleet.store.rollouts.all():
            if other.id != rollout.id and other.state in HOLDING:
                states = (a.state for a in other.assignments if a.device == device)
                if any(state not in ("withdrawn", "failed", "succeeded") for state in states):
                    return
        name = DeviceId(device)
        said = self._fleet.director.assigned(name)
        if said is None or str(said.id) != rollout.release:
            return
        known = self._fleet.store.registry.device(device)
        self._fleet.director.assign(name, self._find(known.active if known else ""))
        self._wake(name)

    def _find(self, release: str) -> Release | None:
        return next((r for r in self._fleet.image.releases() if str(r.id) == release), None)

    def _release(self, release: str) -> Release:
        found = self._find(release)
        if found is None:
            raise InputError("is no longer published", where=release)
        return found

    def _runs_on(self, release: str, device: Device) -> bool:
        """Whether the device has an engine for some artifact of it, as far as is known."""
        here = self._formats_of(release)
        there = formats_of(device.profile)
        return not here or not there or bool(here & there)

    def _formats_of(self, release: str) -> frozenset[str]:
        if release not in self._formats:
            found = self._find(release)
            if found is None:
                return frozenset()
            try:
                card = Bundle.of(self._fleet.blobs, found.manifest).card
            except SkerryError as error:
                _LOG.warning("cannot read the bundle of %s: %s", release, error)
                return frozenset()
            self._formats[release] = frozenset(a.format for a in card.artifacts)
        return self._formats[release]

    def _manifest(self, release: str) -> str:
        releases: Iterable[tuple[str, str]] = (
            (r.release, r.manifest) for r in self._fleet.store.access.releases()
        )
        return dict(releases).get(release, "")
