"""What operators call about rollouts."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import InputError, SkerryError
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.rollout import Rollout, read_policy
from skerry.updater.server.conduct import Conductor
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.http.access import decoded, fleet_of, limited_body, operator_of
from skerry.updater.server.http.answers import answer, answer_error
from skerry.updater.server.view import RolloutView, rollout_view

__all__ = ["RolloutRequest", "rollout_views", "router"]

router = APIRouter(prefix="/v1/rollouts")
_JSON = Depends(limited_body(lambda fleet: fleet.limits.json_bytes, operator_of))


class RolloutRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/rollouts`.

    Attributes:
        policy: as in a policy file; unknown keys are refused.
        targets: device ids; none for the whole fleet, also those that join later.
    """

    release: str
    policy: dict[str, Any] = {}
    targets: list[str] = []
    start: bool = False


def rollout_views(fleet: Fleet, rollouts: list[Rollout]) -> list[RolloutView]:
    """Rollouts as operators see them."""
    devices, deltas = fleet.store.registry.devices(), fleet.store.access.deltas()
    return [rollout_view(r, devices, deltas, _blobs(fleet, r.release)) for r in rollouts]


def _blobs(fleet: Fleet, release: str) -> list[str]:
    for r in fleet.store.access.releases():
        if r.release == release:
            try:
                bundle = Bundle.of(fleet.blobs, Descriptor(Digest(r.manifest), r.size))
                return [str(blob.digest) for blob in bundle.descriptors()]
            except SkerryError:  # a damaged blob must not hide the rollout
                return []
    return []


def _conductor(request: Request) -> Conductor:
    conductor: Conductor = request.app.state.conductor
    return conductor


@router.get("")
def _rollouts(request: Request) -> Response:
    """Every rollout, oldest first."""
    operator_of(request, "viewer")
    fleet = fleet_of(request)
    return answer({"rollouts": rollout_views(fleet, fleet.store.rollouts.all())})


@router.post("")
def _create(request: Request, body: bytes = _JSON) -> Response:
    """A new rollout, a draft until it is started."""
    operator, fleet = operator_of(request), fleet_of(request)
    wanted = decoded(body, RolloutRequest)
    policy = read_policy(wanted.policy, where="policy")
    rollout = _conductor(request).create(wanted.release, policy, wanted.targets)
    now = fleet.clock.now()
    fleet.store.audit.append(operator.name, "rollout.create", rollout.id, wanted.release, now)
    if wanted.start:
        rollout = _conductor(request).change(rollout.id, "start")
        fleet.store.audit.append(operator.name, "rollout.start", rollout.id, "", now)
    return answer(rollout_views(fleet, [rollout])[0], 201)


@router.get("/{rollout_id}")
def _status(request: Request, rollout_id: str) -> Response:
    """One rollout."""
    operator_of(request, "viewer")
    fleet = fleet_of(request)
    rollout = fleet.store.rollouts.get(rollout_id)
    if rollout is None:
        raise HTTPException(404, f"no rollout {rollout_id[:32]!r}")
    return answer(rollout_views(fleet, [rollout])[0])


@router.post("/{rollout_id}/{verb}")
def _change(
    request: Request, rollout_id: str, verb: Literal["start", "pause", "resume", "abort"]
) -> Response:
    """Start, pause, resume or abort a rollout."""
    operator, fleet = operator_of(request), fleet_of(request)
    try:
        rollout = _conductor(request).change(rollout_id, verb)
    except InputError as error:
        return answer_error(409, error)
    fleet.store.audit.append(operator.name, f"rollout.{verb}", rollout.id, "", fleet.clock.now())
    return answer(rollout_views(fleet, [rollout])[0])
