"""The fleet store in memory."""

from collections import Counter
from collections.abc import Sequence
from threading import Lock

import msgspec

from skerry.devices.errors import InputError, TrustError
from skerry.telemetry.collector import Record
from skerry.telemetry.messages import Event, TwinReported
from skerry.telemetry.window import Window
from skerry.updater.rollout import Assignment, Policy, Rollout, RolloutState
from skerry.updater.server.admission import check_claim
from skerry.updater.server.audit import chained
from skerry.updater.server.records import (
    AuditEntry,
    Claim,
    Delta,
    Device,
    Operator,
    PublishedRelease,
    StoredEvent,
    Totals,
)
from skerry.updater.server.sums import added

replace = msgspec.structs.replace


class MemoryRegistry:
    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._devices: dict[str, Device] = {}
        self._lock = Lock()

    def add_claim(self, claim: Claim) -> None:
        self._claims[claim.token_hash] = claim

    def claim(self, token_hash: str) -> Claim | None:
        return self._claims.get(token_hash)

    def claims(self) -> list[Claim]:
        return sorted(self._claims.values(), key=lambda c: -c.created_at)

    def enrol(self, token_hash: str, device: Device, now: float) -> Device:
        with self._lock:
            return self._enrol(token_hash, device, now)

    def _enrol(self, token_hash: str, device: Device, now: float) -> Device:
        claim = check_claim(self._claims.get(token_hash), device, now)
        if claim.used_at:
            before = self._devices.get(claim.used_by)
            if before is None or before.key_digest != device.key_digest:
                raise TrustError("the claim was used", where="token")
            return before
        known = self._devices.get(device.id)
        if known and not known.revoked_at:
            raise InputError(f"a device {device.id} is enrolled already")
        self._devices[device.id] = device
        self._claims[token_hash] = replace(
            claim, used_at=now, used_by=device.id, key_digest=device.key_digest
        )
        return device

    def device(self, device_id: str) -> Device | None:
        return self._devices.get(device_id)

    def devices(self) -> list[Device]:
        return [self._devices[name] for name in sorted(self._devices)]

    def renew(self, device_id: str, certificate: str, key_digest: str, not_after: float) -> None:
        self.change(device_id, certificate=certificate, key_digest=key_digest, not_after=not_after)

    def revoke(self, device_id: str, now: float) -> bool:
        known = self._devices.get(device_id)
        if known is None or known.revoked_at:
            return False
        self.change(device_id, revoked_at=now, online=False)
        return True

    def presence(self, device_id: str, online: bool, boot: str, at: float) -> None:
        known = self._devices.get(device_id)
        if online:
            self.change(device_id, online=True, boot=boot, last_seen=at)
        elif known and known.boot == boot:
            self.change(device_id, online=False)

    def all_offline(self) -> None:
        for device_id in self._devices:
            self.change(device_id, online=False)

    def change(self, device_id: str, **values: object) -> None:
        if device_id in self._devices:
            self._devices[device_id] = replace(self._devices[device_id], **values)


class MemoryAccess:
    def __init__(self) -> None:
        self._operators: dict[str, Operator] = {}
        self._releases: dict[str, PublishedRelease] = {}
        self._deltas: dict[tuple[str, str], Delta] = {}

    def add_operator(self, operator: Operator) -> None:
        self._operators[operator.token_hash] = operator

    def operator(self, token_hash: str) -> Operator | None:
        found = self._operators.get(token_hash)
        return None if found is None or found.revoked_at else found

    def add_release(self, release: PublishedRelease) -> None:
        self._releases.setdefault(release.release, release)

    def releases(self) -> list[PublishedRelease]:
        order = sorted(self._releases.values(), key=lambda r: (r.published_at, r.release))
        return order[::-1]

    def add_delta(self, delta: Delta) -> None:
        self._deltas[delta.base, delta.new] = delta

    def deltas(self) -> list[Delta]:
        return list(self._deltas.values())


class MemoryRollouts:
    def __init__(self, events: list[StoredEvent], applied: set[int]) -> None:
        self._rollouts: dict[str, Rollout] = {}
        self._events, self._applied = events, applied

    def add(self, release: str, policy: Policy, targets: Sequence[str], now: float) -> Rollout:
        name = f"r{len(self._rollouts) + 1}"
        rollout = Rollout(name, release, policy, targets=tuple(targets), created_at=now)
        self._rollouts[name] = rollout
        return rollout

    def get(self, rollout_id: str) -> Rollout | None:
        return self._rollouts.get(rollout_id)

    def all(self) -> list[Rollout]:
        return list(self._rollouts.values())

    def save(self, rollout: Rollout, *, was: RolloutState) -> bool:
        before = self._rollouts.get(rollout.id)
        if before is None or before.state != was:
            return False
        self._rollouts[rollout.id] = replace(rollout, assignments=before.assignments)
        return True

    def put(self, rollout_id: str, assignment: Assignment) -> None:
        rollout = self._rollouts[rollout_id]
        others = [a for a in rollout.assignments if a.device != assignment.device]
        ordered = sorted([*others, assignment], key=lambda a: (a.stage, a.device))
        self._rollouts[rollout_id] = replace(rollout, assignments=tuple(ordered))

    def unapplied(self, limit: int) -> list[StoredEvent]:
        return [e for e in self._events if e.number not in self._applied][:limit]

    def apply(
        self, changed: Sequence[tuple[str, Assignment]], events: Sequence[StoredEvent]
    ) -> None:
        for rollout_id, assignment in changed:
            self.put(rollout_id, assignment)
        self._applied |= {event.number for event in events}


class MemoryTelemetry:
    def __init__(
        self, registry: MemoryRegistry, events: list[StoredEvent], applied: set[int]
    ) -> None:
        self._registry, self._events, self._applied = registry, events, applied
        self._keys: set[tuple[str, str, str, str, int]] = set()
        self._count = 0
        self._totals: dict[tuple[str, str], Totals] = {}
        self._windows: list[tuple[str, Window, float]] = []
        self._twins: dict[str, tuple[str, int]] = {}

    def store(self, batch: Sequence[Record]) -> list[Record]:
        new = []
        for record in batch:
            if record.key in self._keys:
                continue
            self._keys.add(record.key)
            new.append(record)
            device = str(record.address.device)
            match record.value:
                case Window() as window:
                    key = (device, window.manifest)
                    self._totals[key] = added(self._totals.get(key), device, window)
                    self._windows.append((device, window, record.received))
                case Event() as event:
                    self._note(device, record.received, event)
                case TwinReported() as twin:
                    self._turn(device, twin, record.boot, record.seq)
            known = self._registry.device(device)
            if known:
                self._registry.change(
                    device,
                    last_seen=max(known.last_seen, record.received),
                    dropped=max(known.dropped, record.dropped),
                )
        return new

    def _note(self, device: str, received: float, event: Event) -> None:
        self._count += 1
        self._events.append(
            StoredEvent(
                self._count,
                device,
                event.kind,
                event.at,
                received,
                event.release,
                event.rollout,
                event.reason,
                event.delta_bytes,
                event.full_bytes,
            )
        )

    def _turn(self, device: str, twin: TwinReported, boot: str, seq: int) -> None:
        last_boot, last_seq = self._twins.get(device, ("", 0))
        if last_boot == boot and last_seq >= seq:
            return
        self._twins[device] = (boot, seq)
        self._registry.change(
            device,
            active=twin.active.release if twin.active else "",
            active_manifest=twin.active.manifest if twin.active else "",
            artifact=twin.active.artifact if twin.active else "",
            busy=twin.candidate is not None,
        )

    def events(self, limit: int, device: str = "") -> list[StoredEvent]:
        wanted = [e for e in self._events if not device or e.device == device]
        return wanted[::-1][:limit]

    def totals(self) -> list[Totals]:
        return list(self._totals.values())

    def sketches(self, device: str, manifest: str, limit: int) -> list[bytes]:
        mine = [w for d, w, _ in self._windows if d == device and w.manifest == manifest]
        return [w.sketches for w in mine[::-1][:limit] if w.sketches]

    def slim(self, keep: int) -> bool:
        seen: Counter[tuple[str, str]] = Counter()
        for index in reversed(range(len(self._windows))):
            device, window, received = self._windows[index]
            seen[device, window.manifest] += 1
            if seen[device, window.manifest] > keep:
                self._windows[index] = (device, replace(window, sketches=b""), received)
        return False

    def prune(self, windows_before: float, events_before: float) -> int:
        kept = [w for w in self._windows if w[2] >= windows_before]
        told = [
            e for e in self._events if e.received >= events_before or e.number not in self._applied
        ]
        gone = len(self._windows) - len(kept) + len(self._events) - len(told)
        self._windows, self._events[:] = kept, told
        return gone

    def set_drift(self, device: str, manifest: str, verdict: str) -> None:
        key = (device, manifest)
        if key in self._totals:
            self._totals[key] = replace(self._totals[key], drift=verdict)


class MemoryAudit:
    def __init__(self) -> None:
        self._entries: list[AuditEntry] = []
        self._lock = Lock()

    def append(self, actor: str, action: str, subject: str, details: str, at: float) -> AuditEntry:
        with self._lock:
            last = self._entries[-1] if self._entries else None
            self._entries.append(chained(last, actor, action, subject, details, at))
            return self._entries[-1]

    def entries(self, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        return [e for e in self._entries if e.seq > after][:limit]


class MemoryFleet:
    def __init__(self) -> None:
        events: list[StoredEvent] = []
        applied: set[int] = set()
        self.registry = MemoryRegistry()
        self.access = MemoryAccess()
        self.rollouts = MemoryRollouts(events, applied)
        self.telemetry = MemoryTelemetry(self.registry, events, applied)
        self.audit = MemoryAudit()

    def close(self) -> None:
        pass
