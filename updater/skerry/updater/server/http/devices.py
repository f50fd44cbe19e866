"""What devices call: enrolment, metadata, blobs."""

from __future__ import annotations

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.enrolment import EnrolmentRequest
from skerry.devices.errors import InputError, TrustError
from skerry.devices.ids import DeviceId
from skerry.updater.sealing import Parcel, check_key_id
from skerry.updater.server.enrol import RenewRequest, admit, renew
from skerry.updater.server.http.access import decoded, device_of, fleet_of, limited_body
from skerry.updater.server.http.answers import answer, answer_error

__all__ = ["router"]

router = APIRouter()
_ENROLMENT = Depends(limited_body(lambda fleet: fleet.limits.enrolment_bytes))
_JSON = Depends(limited_body(lambda fleet: fleet.limits.json_bytes, device_of))
_METADATA = "application/json"


@router.post("/v1/enrol")
def _enrol(request: Request, body: bytes = _ENROLMENT) -> Response:
    """Enrol a device by a claim token and a certificate request."""
    try:
        return answer(admit(fleet_of(request), decoded(body, EnrolmentRequest)), 201)
    except InputError as error:
        taken = "enrolled already" in error.problem
        return answer_error(409 if taken else 422, error)


@router.post("/v1/renew")
def _renew_certificate(request: Request, body: bytes = _JSON) -> Response:
    """Give the calling device a new certificate."""
    device = renew(fleet_of(request), device_of(request), decoded(body, RenewRequest))
    return answer({"certificate": device.certificate, "not_after": device.not_after})


@router.get("/image/{name}")
def _image_metadata(request: Request, name: str) -> Response:
    """Metadata of the image repository."""
    device_of(request)
    return _metadata(fleet_of(request).image.read(name), name)


@router.get("/director/{device}/{name}")
def _director_metadata(request: Request, device: str, name: str) -> Response:
    """Metadata of the director, for the calling device alone."""
    caller = device_of(request)
    if caller.id != device:
        raise HTTPException(403, f"{caller.id} may not read what is for another device")
    return _metadata(fleet_of(request).director.read(DeviceId(device), name), name)


@router.api_route("/blobs/sha256/{name}", methods=["GET", "HEAD"])
def _blob(request: Request, name: str) -> Response:
    """A blob as it lies here, plain or sealed; whole, or a range of it."""
    device_of(request)
    digits, _, key = name.partition(".")
    try:
        path = fleet_of(request).blobs.file(Parcel(Descriptor(Digest.from_hex(digits), 0), key))
    except InputError as error:
        raise HTTPException(404, "no such blob") from error
    if not path.is_file():
        raise HTTPException(404, "no such blob")
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return FileResponse(path, headers=headers, media_type="application/octet-stream")


@router.get("/keys/{device}/{name}")
def _key(request: Request, device: str, name: str) -> Response:
    """The content key of a sealed release, for the calling device alone."""
    caller = device_of(request)
    if caller.id != device:
        raise HTTPException(403, f"{caller.id} may not have what is for another device")
    try:
        key = check_key_id(name.removesuffix(".json"))
        envelope = fleet_of(request).keys.hand_out(key, DeviceId(device), caller.certificate)
    except (InputError, TrustError) as error:
        raise HTTPException(404, "no such key") from error
    headers = {"Cache-Control": "no-store"}
    return Response(envelope.encode(), media_type=_METADATA, headers=headers)


def _metadata(data: bytes | None, name: str) -> Response:
    if data is None:
        raise HTTPException(404, f"no metadata {name[:80]!r}")
    return Response(data, media_type=_METADATA, headers={"Cache-Control": "no-cache"})
