"""The slots of a device and the update that changes them: every rule, and no effect.

An update walks through the states below. Slots are written before the journal, so from both
`recovered` can tell what a power cut interrupted.

    fetching ──fetched──▶ candidate ──try──▶ trial ──commit──▶ committed ──reported──▶ (none)
       │                    │  ▲               │  └─interrupt─┐      ▲
       │                    │  └───────────────┼──────────────┘      │
       └───────fail─────────┴─────────fail─────┴──▶ failed ──reported┘
"""

from __future__ import annotations

from typing import Literal

import msgspec

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import SkerryError
from skerry.devices.ids import ReleaseId
from skerry.runtime.bundle.card import BlobRef
from skerry.updater.sealing import check_key_id

__all__ = [
    "MAX_REMEMBERED",
    "TRANSITIONS",
    "Bad",
    "Failure",
    "Held",
    "Situation",
    "Slots",
    "State",
    "Step",
    "Update",
    "abandoned",
    "begun",
    "check",
    "committed",
    "counted",
    "failed",
    "fallen_back",
    "fetched",
    "forgotten",
    "keys_named",
    "named",
    "planned",
    "postponed",
    "recovered",
    "reference",
    "reported",
    "tried",
]

State = Literal["fetching", "candidate", "trial", "committed", "failed"]
Failure = Literal["refused", "golden_failed", "rolled_back"]
Step = Literal["fetched", "try", "interrupt", "commit", "fail", "abandon", "reported"]

TRANSITIONS: dict[tuple[State, Step], State | None] = {
    ("fetching", "fetched"): "candidate",
    ("fetching", "fail"): "failed",
    ("fetching", "abandon"): None,
    ("candidate", "try"): "trial",
    ("candidate", "fail"): "failed",
    ("candidate", "abandon"): None,
    ("trial", "interrupt"): "candidate",
    ("trial", "commit"): "committed",
    ("trial", "fail"): "failed",
    ("committed", "reported"): None,
    ("failed", "reported"): None,
}

MAX_REMEMBERED = 32
"""How many releases that failed are remembered; the oldest are forgotten first."""


class Held(msgspec.Struct, frozen=True):
    """A release that is here whole.

    Attributes:
        release: `model/counter`.
        version: its maker's version.
        manifest: the bundle's manifest blob.
        artifact: the name of the artifact chosen for this device.
        blobs: every other blob that running it needs.
        key: the id of the content key it is sealed under; "" if it is plain.
    """

    release: str
    version: str
    manifest: BlobRef
    artifact: str
    blobs: tuple[BlobRef, ...]
    key: str = ""

    @property
    def id(self) -> ReleaseId:
        """The release as a value."""
        return ReleaseId.parse(self.release)


class Bad(msgspec.Struct, frozen=True):
    """A release that failed here, how, and why. It is not tried again."""

    release: str
    failure: Failure
    reason: str


class Slots(msgspec.Struct, frozen=True):
    """`slots.json`: what the device runs, ran before, and is about to try."""

    active: Held | None = None
    previous: Held | None = None
    candidate: Held | None = None
    bad: tuple[Bad, ...] = ()
    schema: Literal[1] = 1

    def failure(self, release: ReleaseId) -> Bad | None:
        """Why `release` is not tried again; None if it may be tried."""
        return next((bad for bad in self.bad if bad.release == str(release)), None)


class Update(msgspec.Struct, frozen=True):
    """`journal.json`: the update in progress.

    Attributes:
        release, version, manifest: what is being installed.
        state: how far it is.
        blobs: the blobs it needs beside the manifest, once known.
        artifact: the artifact chosen, once known.
        attempts: how often the candidate was tried.
        failure, reason: how and why it failed.
        delta_bytes, full_bytes: what was fetched, and the blobs that came of it.
        began: seconds since the epoch.
        key: the id of the content key it is sealed under; "" if it is plain.
    """

    release: str
    version: str
    manifest: BlobRef
    state: State = "fetching"
    blobs: tuple[BlobRef, ...] = ()
    artifact: str = ""
    attempts: int = 0
    failure: Failure | None = None
    reason: str = ""
    delta_bytes: int = 0
    full_bytes: int = 0
    began: float = 0.0
    key: str = ""
    schema: Literal[1] = 1

    @property
    def id(self) -> ReleaseId:
        """The release as a value."""
        return ReleaseId.parse(self.release)


class Situation(msgspec.Struct, frozen=True):
    """The slots and the update that is changing them."""

    slots: Slots = Slots()
    update: Update | None = None


def reference(blob: Descriptor) -> BlobRef:
    """`blob` as slots and journal write it."""
    return BlobRef(str(blob.digest), blob.size)


def check(value: Slots | Update) -> None:
    """That every release and digest in it is one.

    Raises:
        InputError: something is not.
    """
    now = Situation(update=value) if isinstance(value, Update) else Situation(value)
    named(now)
    for held in (now.slots.active, now.slots.previous, now.slots.candidate, now.update):
        if held is not None:
            ReleaseId.parse(held.release)
    for key in keys_named(now):
        check_key_id(key)


def begun(
    now: Situation,
    release: ReleaseId,
    version: str,
    manifest: Descriptor,
    at: float,
    key: str = "",
) -> Situation:
    """Start to install `release`. Only where no other update is in progress."""
    if now.update is not None:
        raise _illegal(now.update.state, "begin")
    update = Update(str(release), version, reference(manifest), began=at, key=key)
    return Situation(now.slots, update)


def planned(now: Situation, artifact: str, blobs: tuple[BlobRef, ...]) -> Situation:
    """It is known which artifact and which blobs the update needs."""
    return Situation(
        now.slots, msgspec.structs.replace(_update(now), artifact=artifact, blobs=blobs)
    )


def counted(now: Situation, *, fetched: int, whole: int) -> Situation:
    """A blob of `whole` bytes came here as `fetched` bytes: itself, or a patch."""
    update = _update(now)
    total = msgspec.structs.replace(
        update,
        delta_bytes=update.delta_bytes + fetched,
        full_bytes=update.full_bytes + whole,
    )
    return Situation(now.slots, total)


def fetched(now: Situation) -> Situation:
    """Every blob is here: the candidate slot names them."""
    update = _step(now, "fetched")
    held = Held(
        update.release,
        update.version,
        update.manifest,
        update.artifact,
        update.blobs,
        update.key,
    )
    return Situation(msgspec.structs.replace(now.slots, candidate=held), update)


def tried(now: Situation) -> Situation:
    """The candidate is about to be loaded and served. Counted before, so a crash counts too."""
    return Situation(now.slots, _step(now, "try", attempts=_update(now).attempts + 1))


def postponed(now: Situation) -> Situation:
    """The trial was stopped on request: it does not count."""
    return Situation(now.slots, _step(now, "interrupt", attempts=_update(now).attempts - 1))


def committed(now: Situation) -> Situation:
    """The candidate becomes active, what was active becomes previous."""
    update, slots = _step(now, "commit"), now.slots
    changed = msgspec.structs.replace(
        slots, active=slots.candidate, previous=slots.active, candidate=None
    )
    return Situation(changed, update)


def failed(now: Situation, failure: Failure, reason: str) -> Situation:
    """The release does not work here: forget the candidate, remember why."""
    update = _step(now, "fail", failure=failure, reason=reason)
    remembered = _remember(now.slots.bad, Bad(update.release, failure, reason))
    slots = msgspec.structs.replace(now.slots, candidate=None, bad=remembered)
    return Situation(slots, update)


def abandoned(now: Situation) -> Situation:
    """Another release is wanted by now: let go of this one, without prejudice."""
    if TRANSITIONS.get((_update(now).state, "abandon"), "illegal") is not None:
        raise _illegal(_update(now).state, "abandon")
    return Situation(msgspec.structs.replace(now.slots, candidate=None), None)


def reported(now: Situation) -> Situation:
    """The outcome is on its way to the server: the update is over."""
    if TRANSITIONS.get((_update(now).state, "reported"), "illegal") is not None:
        raise _illegal(_update(now).state, "reported")
    return Situation(now.slots, None)


def fallen_back(now: Situation, reason: str) -> Situation:
    """What is active does not work any more: run the previous release again."""
    slots = now.slots
    if slots.active is None or slots.previous is None:
        raise SkerryError("there is no previous release to fall back to", where="slots")
    remembered = _remember(slots.bad, Bad(slots.active.release, "rolled_back", reason))
    changed = msgspec.structs.replace(slots, active=slots.previous, previous=None, bad=remembered)
    return Situation(changed, now.update)


def forgotten(now: Situation) -> Situation:
    """Let go of the previous release, to make room."""
    return Situation(msgspec.structs.replace(now.slots, previous=None), now.update)


def recovered(now: Situation) -> Situation:
    """What slots and journal mean after a restart at any instant.

    The slots are written before the journal, so the journal may be one step behind; a candidate
    without a journal is left over from an abandoned update.
    """
    slots, update = now.slots, now.update
    if update is None:
        return Situation(msgspec.structs.replace(slots, candidate=None), None)
    if update.state in ("committed", "failed"):
        return now
    if slots.candidate is not None and slots.candidate.release == update.release:
        if update.state == "trial":
            return Situation(slots, _step(now, "interrupt"))
        return Situation(slots, msgspec.structs.replace(update, state="candidate"))
    slots = msgspec.structs.replace(slots, candidate=None)
    bad = slots.failure(update.id)
    if update.state == "trial" and slots.active and slots.active.release == update.release:
        return Situation(slots, msgspec.structs.replace(update, state="committed"))
    if bad is not None:
        update = msgspec.structs.replace(
            update, state="failed", failure=bad.failure, reason=bad.reason
        )
        return Situation(slots, update)
    return Situation(slots, msgspec.structs.replace(update, state="fetching"))


def named(now: Situation) -> frozenset[Digest]:
    """Every blob that a slot or the update in progress names: what must not be removed."""
    slots, update = now.slots, now.update
    refs: list[BlobRef] = []
    for held in (slots.active, slots.previous, slots.candidate):
        if held is not None:
            refs += [held.manifest, *held.blobs]
    if update is not None:
        refs += [update.manifest, *update.blobs]
    return frozenset(Digest(ref.digest) for ref in refs)


def keys_named(now: Situation) -> frozenset[str]:
    """The id of every content key that a slot or the update in progress names."""
    slots = now.slots
    held = (slots.active, slots.previous, slots.candidate, now.update)
    return frozenset(one.key for one in held if one is not None and one.key)


def _update(now: Situation) -> Update:
    if now.update is None:
        raise SkerryError("no update is in progress", where="slots")
    return now.update


def _step(now: Situation, step: Step, **changes: object) -> Update:
    update = _update(now)
    state = TRANSITIONS.get((update.state, step))
    if state is None:
        raise _illegal(update.state, step)
    return msgspec.structs.replace(update, state=state, **changes)


def _illegal(state: State, step: str) -> SkerryError:
    return SkerryError(f"an update that is {state} cannot {step}", where="slots")


def _remember(bad: tuple[Bad, ...], new: Bad) -> tuple[Bad, ...]:
    others = tuple(known for known in bad if known.release != new.release)
    return (*others, new)[-MAX_REMEMBERED:]
