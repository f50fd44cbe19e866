"""What an operator decides about a rollout, once, before it starts."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from skerry.devices.errors import InputError

__all__ = ["Gates", "Policy", "Stage", "read_policy"]

_Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=365 * 86_400)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the release may go before somebody looks.

    Give one of `devices`, `count` and `percent`; counts and percents are of the whole target set
    and include the stages before.

    Attributes:
        name: for people.
        devices: exactly these devices, besides the stages before.
        count: this many devices.
        percent: this share of the target set, rounded up.
        soak_s: seconds after the stage's last success before the next begins; the policy's if None.
    """

    name: _Name
    devices: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=10_000)] = ()
    count: _Count | None = None
    percent: _Percent | None = None
    soak_s: _Seconds | None = None

    def __post_init__(self) -> None:
        given = sum([bool(self.devices), self.count is not None, self.percent is not None])
        if given != 1:
            raise ValueError(f"stage {self.name!r} needs one of devices, count and percent")

    def reach(self, targets: int) -> int:
        """How many devices of `targets` the release may have reached in this stage."""
        if self.count is not None:
            return min(self.count, targets)
        return math.ceil(targets * (self.percent or 0.0) / 100 - 1e-9)


class Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the windows of updated devices must show. None: not asked.

    Attributes:
        error_rate: most errors per request, 0 to 1.
        p99_ms: slowest 99th percentile of one device, milliseconds.
        drift: whether a device whose data has drifted from the reference stops the rollout.
        min_requests: a device that answered fewer is not judged yet, and the stage waits for it.
    """

    error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    p99_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    drift: bool = False
    min_requests: Annotated[int, msgspec.Meta(ge=0)] = 0

    @property
    def asked(self) -> bool:
        """Whether any of them is asked for."""
        return self.error_rate is not None or self.p99_ms is not None or self.drift


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stages of a rollout and when it moves, waits or stops.

    Attributes:
        stages: in order; the last usually is 100 percent.
        success_percent: share of a stage's devices that must have committed before the next begins.
            Devices that never answered (`late`) are not counted.
        min_successes: and at least this many, or as many as the stage reaches.
        max_failures: more failed devices than this stop the rollout.
        soak_s: seconds after a stage's last success before the next begins.
        device_timeout_s: an offered device that has not committed after this is `late`.
        max_in_flight: most devices that update at the same time; None for no bound.
        fallback: a published release with a higher counter that holds older content. If the rollout
            is aborted, the devices that committed are given it.
        on_failure: what stopping means. `abort` also takes back what was offered and not committed.
        gates: what telemetry must show.
    """

    stages: Annotated[tuple[Stage, ...], msgspec.Meta(min_length=1, max_length=50)] = (
        Stage("canary", count=1),
        Stage("rest", percent=100),
    )
    success_percent: _Percent = 100
    min_successes: _Count = 1
    max_failures: Annotated[int, msgspec.Meta(ge=0)] = 0
    soak_s: _Seconds = 0
    device_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=365 * 86_400)] = 3600
    max_in_flight: _Count | None = None
    fallback: Annotated[str, msgspec.Meta(max_length=128)] = ""
    on_failure: Literal["abort", "pause"] = "abort"
    gates: Gates = Gates()

    def soak_of(self, stage: int) -> float:
        """Seconds of soak after `stage`."""
        own = self.stages[stage].soak_s
        return self.soak_s if own is None else own


def read_policy(document: Any, *, where: object) -> Policy:
    """A policy from plain data (parsed TOML or JSON).

    Raises:
        InputError: an unknown key, or a value that does not fit; the message names the key.
    """
    try:
        return msgspec.convert(document, Policy)
    except msgspec.ValidationError as error:
        raise InputError(
            f"the policy is wrong: {error}",
            where=where,
            remedy="the keys are " + ", ".join(Policy.__struct_fields__),
        ) from error
