"""What operators call about releases, devices, claims and the audit log."""

from __future__ import annotations

import base64
import binascii
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import anyio
import anyio.from_thread
import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import InputError, QuotaError, TrustError, UnavailableError
from skerry.devices.ids import DeviceId
from skerry.devices.output import human_bytes
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.capture_order import stated_order
from skerry.telemetry.messages import ORDER_BYTES
from skerry.updater.repository import Release, collect_media
from skerry.updater.sealing import Envelope, Parcel, parcel_of, parcels
from skerry.updater.server.enrol import create_claim
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.http.access import (
    decoded,
    fleet_of,
    is_device_id,
    limited_body,
    operator_of,
)
from skerry.updater.server.http.answers import answer
from skerry.updater.server.records import Operator, PublishedRelease
from skerry.updater.server.view import device_views, release_views

__all__ = ["ClaimRequest", "Publication", "router"]

router = APIRouter(prefix="/v1")
_JSON = Depends(limited_body(lambda fleet: fleet.limits.json_bytes, operator_of))
_RELEASE = Depends(limited_body(lambda fleet: fleet.limits.release_bytes, operator_of))


class ClaimRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/claims`."""

    device: str = ""
    minutes: float = 60


class Publication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/releases`: metadata files by name, in base64."""

    image: dict[str, str] = {}
    director: dict[str, str] = {}


@router.put("/blobs/sha256/{name}")
async def _put_blob(request: Request, name: str) -> Response:
    """Store a blob, plain or sealed; it is matched to its plain digest before it is kept."""
    fleet = fleet_of(request)
    await run_in_threadpool(operator_of, request)
    try:
        parcel = parcel_of(name, _length(request, fleet))
    except InputError as error:
        raise HTTPException(422, str(error)) from error
    there = await run_in_threadpool(fleet.blobs.holds, parcel)
    if not there:
        await run_in_threadpool(_require_room, fleet, parcel.size)
        await run_in_threadpool(fleet.blobs.take, parcel, _chunks(request.stream()))
    document = {"digest": str(parcel.blob.digest), "size": parcel.size}
    return answer(document, 200 if there else 201)


@router.get("/blobs/sha256/{name}")
def _get_blob(request: Request, name: str) -> Response:
    """A blob as it lies here, for an operator's medium."""
    operator_of(request)
    digits, _, key = name.partition(".")
    try:
        path = fleet_of(request).blobs.file(Parcel(Descriptor(Digest.from_hex(digits), 0), key))
    except InputError as error:
        raise HTTPException(404, "no such blob") from error
    if not path.is_file():
        raise HTTPException(404, "no such blob")
    return FileResponse(path, media_type="application/octet-stream")


@router.get("/media/{device}")
def _media(request: Request, device: str) -> Response:
    """What a medium for one device holds: metadata, its keys, and the names of its blobs."""
    fleet, operator = fleet_of(request), operator_of(request)
    known = fleet.store.registry.device(device) if is_device_id(device) else None
    if known is None or known.revoked_at:
        raise HTTPException(404, f"no device {device[:80]!r}")

    def hand_out(name: DeviceId, key: str) -> Envelope:
        return fleet.keys.hand_out(key, name, known.certificate)

    found = collect_media(fleet.image, fleet.director, DeviceId(device), fleet.blobs, hand_out)
    fleet.store.audit.append(operator.name, "media.write", device, "", fleet.clock.now())
    return answer(found.document())


@router.put("/keys/{key}")
def _put_key(request: Request, key: str, body: bytes = _JSON) -> Response:
    """Keep the content key of a sealed release, wrapped for this server."""
    fleet, operator = fleet_of(request), operator_of(request)
    fleet.keys.take(key, body)
    fleet.store.audit.append(operator.name, "key.take", key, "", fleet.clock.now())
    return answer({"key": key}, 201)


def _length(request: Request, fleet: Fleet) -> int:
    text = request.headers.get("content-length", "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise HTTPException(411, "say how long the blob is: Content-Length")
    if int(text) > fleet.limits.blob_bytes:
        raise HTTPException(413, f"a blob of at most {fleet.limits.blob_bytes} bytes, please")
    return int(text)


def _require_room(fleet: Fleet, size: int) -> None:
    free = shutil.disk_usage(fleet.folder).free
    if free - size < fleet.limits.reserve_bytes:
        raise QuotaError(
            f"no room for {human_bytes(size)}: {human_bytes(free)} are free",
            where=fleet.folder,
            remedy="free some space on the server",
        )


def _chunks(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The body's chunks for a worker thread: each is fetched from the event loop."""

    async def following() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(following)) is not None:
        yield chunk


@router.post("/releases")
def _publish(request: Request, body: bytes = _RELEASE) -> Response:
    """Take over metadata that operators signed, once the blobs that it names are here."""
    fleet, operator = fleet_of(request), operator_of(request)
    publication = decoded(body, Publication)
    image, director = _files(publication.image), _files(publication.director)
    for release in fleet.image.check(image):
        _require_blobs(fleet, release)
    if director:
        fleet.director.publish(director)
    new = fleet.image.publish(image)
    now = fleet.clock.now()
    known = {release.release for release in fleet.store.access.releases()}
    for release in fleet.image.releases():
        if str(release.id) not in known:
            _note(fleet, operator, release, now)
    return answer({"releases": [release.document() for release in new]})


def _note(fleet: Fleet, operator: Operator, release: Release, now: float) -> None:
    digest, size = str(release.manifest.digest), release.manifest.size
    published = PublishedRelease(str(release.id), release.version, digest, size, now)
    fleet.store.access.add_release(published)
    fleet.store.audit.append(operator.name, "release.publish", str(release.id), digest, now)


def _files(encoded: dict[str, str]) -> dict[str, bytes]:
    try:
        return {name: base64.b64decode(text, validate=True) for name, text in encoded.items()}
    except (binascii.Error, ValueError) as error:
        raise InputError(f"not base64: {error}", where="body") from error


def _require_blobs(fleet: Fleet, release: Release) -> None:
    bundle = _bundle(fleet, release)
    for parcel in parcels(bundle, release.key):
        if not fleet.blobs.holds(parcel):
            raise InputError(
                f"the blob {parcel.blob.digest.short}… is not here",
                where=str(release.id),
                remedy="upload the blobs before the metadata: skerry release publish --everything",
            )


def _bundle(fleet: Fleet, release: Release) -> Bundle:
    if not fleet.blobs.holds(Parcel(release.manifest)):
        raise InputError(
            "its manifest is not here",
            where=str(release.id),
            remedy="upload the blobs before the metadata: skerry release publish --everything",
        )
    return Bundle.of(fleet.blobs, release.manifest)


@router.get("/releases")
def _releases(request: Request) -> Response:
    """Every release, newest first."""
    operator_of(request, "viewer")
    fleet = fleet_of(request)
    views = release_views(fleet.store.access.releases(), fleet.image.releases())
    return answer({"releases": views})


@router.post("/claims")
def _claim(request: Request, body: bytes = _JSON) -> Response:
    """A token that lets one device in."""
    fleet, operator = fleet_of(request), operator_of(request)
    wanted = decoded(body, ClaimRequest)
    made = create_claim(fleet, wanted.device, wanted.minutes)
    subject = wanted.device or "any device"
    fleet.store.audit.append(operator.name, "claim.create", subject, "", fleet.clock.now())
    return answer(made, 201)


@router.get("/devices")
def _devices(request: Request) -> Response:
    """The fleet, from what its devices sent."""
    operator_of(request, "viewer")
    store = fleet_of(request).store
    views = device_views(store.registry.devices(), store.telemetry.totals(), store.rollouts.all())
    return answer({"devices": views})


@router.post("/devices/{device}/revoke")
def _revoke(request: Request, device: str) -> Response:
    """Deny a device from now on, and end its connection."""
    fleet, operator = fleet_of(request), operator_of(request)
    known = fleet.store.registry.device(device) if is_device_id(device) else None
    if known is None:
        raise HTTPException(404, f"no device {device[:80]!r}")
    now = fleet.clock.now()
    if fleet.store.registry.revoke(known.id, now):
        fleet.store.audit.append(operator.name, "device.revoke", known.id, "", now)
    request.app.state.disconnect(known.id)
    return answer({"device": known.id, "revoked": True})


@router.post("/devices/{device}/capture")
def _capture(request: Request, device: str, body: bytes = _JSON) -> Response:
    """Hand a signed order to keep raw inputs to a device. The device judges it, not this server."""
    fleet, operator = fleet_of(request), operator_of(request)
    known = fleet.store.registry.device(device) if is_device_id(device) else None
    if known is None or known.revoked_at:
        raise HTTPException(404, f"no device {device[:80]!r}")
    try:
        order = stated_order(body)
    except TrustError as error:
        raise HTTPException(422, str(error)) from error
    if order.device != known.id or len(body) > ORDER_BYTES:
        raise HTTPException(422, f"an order for {known.id}, of at most {ORDER_BYTES} bytes, please")
    if not known.online:
        raise UnavailableError("is not connected now", where=known.id, remedy="order it later")
    request.app.state.order(DeviceId(known.id), body)
    details = f"{order.id}: {order.calls} calls, {order.bytes} bytes of {order.model}"
    now = fleet.clock.now()
    fleet.store.audit.append(operator.name, "capture.order", known.id, details, now)
    return answer({"device": known.id, "order": order.id}, 202)


@router.get("/events")
def _events(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100, device: str = ""
) -> Response:
    """What happened to updates, newest first."""
    operator_of(request, "viewer")
    if device and not is_device_id(device):
        return answer({"events": []})
    return answer({"events": fleet_of(request).store.telemetry.events(limit, device)})


@router.get("/audit")
def _audit(
    request: Request,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Response:
    """Who did what, oldest first."""
    operator_of(request, "viewer")
    return answer({"entries": fleet_of(request).store.audit.entries(after, limit)})
