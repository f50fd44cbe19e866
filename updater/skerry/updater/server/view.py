"""What operators see: the fleet and its rollouts, from what devices sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from skerry.telemetry.histogram import Histogram
from skerry.updater.repository import Release
from skerry.updater.rollout import Assignment, Policy, Rollout, RolloutState
from skerry.updater.server.records import Delta, Device, PublishedRelease, Totals

__all__ = [
    "AssignmentView",
    "DeviceView",
    "ReleaseView",
    "RolloutView",
    "StageView",
    "device_views",
    "release_views",
    "rollout_view",
]


class DeviceView(msgspec.Struct, frozen=True):
    """One line of the fleet.

    Attributes:
        release, manifest, artifact: what runs, as the device reported.
        requests, errors, p50_ms, p99_ms: over every window that it sent.
        drift: the verdict on what runs.
        delta_bytes, full_bytes: what its last update took on the wire, and would have in full.
        rollout, state: the last rollout that chose it, and where it stands there.
        dropped: messages that it lost before it could send them, ever.
        last_seen, enrolled_at: seconds since the epoch.
    """

    device: str
    online: bool
    revoked: bool
    release: str
    manifest: str
    artifact: str
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float
    drift: str
    delta_bytes: int
    full_bytes: int
    rollout: str
    state: str
    dropped: int
    last_seen: float
    enrolled_at: float


class ReleaseView(msgspec.Struct, frozen=True):
    """One release that was published.

    Attributes:
        manifest: digest of the bundle's manifest.
        size: of the manifest, bytes.
        published_at: seconds since the epoch.
        withdrawn: whether the newest targets name it no more.
    """

    release: str
    version: str
    manifest: str
    size: int
    published_at: float
    withdrawn: bool


class StageView(msgspec.Struct, frozen=True):
    """One stage: how many devices it may reach in all, and what became of those it chose."""

    name: str
    reach: int
    chosen: int
    succeeded: int
    failed: int
    late: int


class AssignmentView(msgspec.Struct, frozen=True):
    """One device in a rollout."""

    device: str
    stage: str
    state: str
    reason: str
    since: float
    delta_bytes: int
    full_bytes: int


class RolloutView(msgspec.Struct, frozen=True):
    """One rollout.

    Attributes:
        stage: name of the one it is in.
        reason: why it waits or stopped.
        targets: how many devices it is for.
        waiting: those of them that it has not chosen yet.
        deltas: the patches that lead to its release.
    """

    id: str
    release: str
    state: RolloutState
    stage: str
    reason: str
    targets: int
    waiting: list[str]
    created_at: float
    started_at: float
    stages: list[StageView]
    devices: list[AssignmentView]
    deltas: list[Delta]
    policy: Policy


def device_views(
    devices: Iterable[Device], totals: Iterable[Totals], rollouts: Sequence[Rollout]
) -> list[DeviceView]:
    """The fleet, by device id."""
    sums: dict[str, list[Totals]] = {}
    for total in totals:
        sums.setdefault(total.device, []).append(total)
    return [_device(d, sums.get(d.id, []), rollouts) for d in sorted(devices, key=lambda d: d.id)]


def _device(device: Device, sums: Sequence[Totals], rollouts: Sequence[Rollout]) -> DeviceView:
    latency = Histogram()
    for total in sums:
        latency.merge(total.latency)
    active = next((t for t in sums if t.manifest == device.active_manifest), None)
    last = _last(device.id, rollouts)
    update = next(
        (a for _, a in _history(device.id, rollouts) if a.full_bytes and a.state == "succeeded"),
        None,
    )
    return DeviceView(
        device=device.id,
        online=device.online,
        revoked=bool(device.revoked_at),
        release=device.active,
        manifest=device.active_manifest,
        artifact=device.artifact,
        requests=sum(t.requests for t in sums),
        errors=sum(t.errors for t in sums),
        p50_ms=1000 * latency.quantile(0.5),
        p99_ms=1000 * latency.quantile(0.99),
        drift=active.drift if active else "",
        delta_bytes=update.delta_bytes if update else 0,
        full_bytes=update.full_bytes if update else 0,
        rollout=last[0].id if last else "",
        state=last[1].state if last else "",
        dropped=device.dropped,
        last_seen=device.last_seen,
        enrolled_at=device.enrolled_at,
    )


def _history(device: str, rollouts: Sequence[Rollout]) -> Iterable[tuple[Rollout, Assignment]]:
    """The device's assignments, newest rollout first."""
    for rollout in reversed(rollouts):
        for a in rollout.assignments:
            if a.device == device:
                yield rollout, a


def _last(device: str, rollouts: Sequence[Rollout]) -> tuple[Rollout, Assignment] | None:
    return next(iter(_history(device, rollouts)), None)


def rollout_view(
    rollout: Rollout, devices: Iterable[Device], deltas: Iterable[Delta], news: Iterable[str]
) -> RolloutView:
    """One rollout.

    Args:
        news: the digests of the blobs of its release.
    """
    targets = set(rollout.targets) or {d.id for d in devices if not d.revoked_at}
    blobs = set(news)
    stages = rollout.policy.stages
    return RolloutView(
        id=rollout.id,
        release=rollout.release,
        state=rollout.state,
        stage=stages[rollout.stage].name,
        reason=rollout.reason,
        targets=len(targets),
        waiting=sorted(targets - {a.device for a in rollout.assignments}),
        created_at=rollout.created_at,
        started_at=rollout.started_at,
        stages=[
            _stage(index, rollout, len(targets | {a.device for a in rollout.assignments}))
            for index in range(len(stages))
        ],
        devices=[
            AssignmentView(
                a.device,
                stages[a.stage].name,
                a.state,
                a.reason,
                a.since,
                a.delta_bytes,
                a.full_bytes,
            )
            for a in rollout.assignments
        ],
        deltas=[delta for delta in deltas if delta.new in blobs],
        policy=rollout.policy,
    )


def _stage(index: int, rollout: Rollout, targets: int) -> StageView:
    stage = rollout.policy.stages[index]
    mine = [a for a in rollout.assignments if a.stage == index]

    def count(state: str) -> int:
        return sum(a.state == state for a in mine)

    reach = len(stage.devices) if stage.devices else stage.reach(targets)
    return StageView(
        stage.name, reach, len(mine), count("succeeded"), count("failed"), count("late")
    )


def release_views(
    published: Iterable[PublishedRelease], listed: Iterable[Release]
) -> list[ReleaseView]:
    """Releases as operators see them.

    Args:
        published: ever.
        listed: those that the newest targets name.
    """
    there = {str(release.id) for release in listed}
    return [
        ReleaseView(**msgspec.structs.asdict(r), withdrawn=r.release not in there)
        for r in published
    ]
