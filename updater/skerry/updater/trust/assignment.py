"""What a release's targets say, and when a device may believe them.

The image repository says what a release is; the director says which of them this device gets. Both
must say the same, and the counter of a model never goes back.

Source: Uptane Standard 2.1, 5.4.4.2 ("Full verification").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from tuf.api.metadata import TargetFile, Targets

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import InputError
from skerry.devices.ids import DeviceId, ModelName, ReleaseId
from skerry.updater.sealing import Parcel, check_key_id
from skerry.updater.trust.rules import Refusal, Rule

__all__ = [
    "Assignment",
    "agreed",
    "assigned_path",
    "blob_of",
    "check_counter",
    "delta_path",
    "patch_of",
    "release_of",
    "release_path",
]

_VERSION_SIGNS = 200


@dataclass(frozen=True, slots=True)
class Assignment:
    """The release that a device is to run, proved by both repositories.

    Attributes:
        release: model and counter.
        version: what people call it.
        manifest: the bundle's OCI manifest, which names every blob.
        key: the id of the content key its blobs are sealed under; "" if they are plain.
    """

    release: ReleaseId
    version: str
    manifest: Descriptor
    key: str = ""


class _Named(msgspec.Struct, frozen=True):
    model: str
    version: str
    counter: int
    key: str = ""


class _Custom(msgspec.Struct, frozen=True):
    skerry: _Named


class _Patch(msgspec.Struct, frozen=True):
    key: str = ""


class _PatchCustom(msgspec.Struct, frozen=True):
    skerry: _Patch = _Patch()


def release_path(release: ReleaseId) -> str:
    """The target path of a release, `<model>/<counter>.json`."""
    return f"{release}.json"


def delta_path(base: Digest, new: Digest) -> str:
    """The target path of the patch from one blob to another, `deltas/<hex>/<hex>`."""
    return f"deltas/{base.hex}/{new.hex}"


def blob_of(target: TargetFile, role: str) -> Descriptor:
    """The digest and length that a target names; it must be by SHA-256.

    Raises:
        Refusal: it is not.
    """
    digest, length = target.hashes.get("sha256"), target.length
    try:
        if type(length) is not int or not isinstance(digest, str):
            raise InputError("length or SHA-256 is missing")
        return Descriptor(Digest.from_hex(digest), length)
    except InputError as error:
        raise Refusal(Rule.FORM, role, f"target {target.path[:200]!r}: {error}") from error


def release_of(target: TargetFile, role: str) -> Assignment:
    """The release that a target describes; its path and its `custom` must say the same.

    Raises:
        Refusal: they do not, or a field is missing.
    """
    try:
        named = msgspec.convert(target.custom, _Custom).skerry
        release = ReleaseId(ModelName(named.model), named.counter)
        if named.key:
            check_key_id(named.key)
    except (msgspec.ValidationError, InputError) as error:
        problem = f"target {target.path[:200]!r} does not describe a release: {error}"
        raise Refusal(Rule.FORM, role, problem) from error
    if release_path(release) != target.path or not 0 < len(named.version) <= _VERSION_SIGNS:
        problem = f"target {target.path[:200]!r} describes {release} {named.version[:200]!r}"
        raise Refusal(Rule.FORM, role, problem)
    return Assignment(release, named.version, blob_of(target, role), named.key)


def patch_of(target: TargetFile, role: str) -> Parcel:
    """The patch that a target of the role `deltas` names.

    Raises:
        Refusal: it names none.
    """
    try:
        return Parcel(
            blob_of(target, role), msgspec.convert(target.custom or {}, _PatchCustom).skerry.key
        )
    except (msgspec.ValidationError, InputError) as error:
        raise Refusal(Rule.FORM, role, f"target {target.path[:200]!r}: {error}") from error


def assigned_path(director: Targets, device: DeviceId) -> str | None:
    """The path of the one target that the director gives to `device`; None if it gives none.

    Raises:
        Refusal: the metadata was made for another device, or has more than one target.
    """
    about: Any = director.unrecognized_fields.get("skerry")
    meant = about.get("device") if isinstance(about, dict) else None
    if meant != str(device):
        raise Refusal(
            Rule.WRONG_DEVICE,
            "director/targets",
            f"it was signed for the device {str(meant)[:80]!r}, and this one is {device}",
            remedy="somebody replays another device's assignment, or this device's id has changed",
        )
    if len(director.targets) > 1:
        raise Refusal(
            Rule.FORM, "director/targets", f"{len(director.targets)} targets where one belongs"
        )
    return next(iter(director.targets), None)


def agreed(path: str, director: Targets, image: Targets) -> Assignment:
    """The assignment at `path`, if the image repository signed the same release.

    Raises:
        Refusal: it did not: the director alone, or the image repository alone, cannot install.
    """
    said = release_of(director.targets[path], "director/targets")
    if path not in image.targets:
        raise Refusal(
            Rule.DISAGREEMENT,
            "image/targets",
            f"the director assigns {said.release}, which the image repository does not have",
            remedy="publish the release first; if it was, the director is not to be trusted",
        )
    signed = release_of(image.targets[path], "image/targets")
    if signed != said:
        raise Refusal(
            Rule.DISAGREEMENT,
            "director/targets",
            f"the director assigns {_told(said)}, and the image repository signed {_told(signed)}",
            remedy="the director is not to be trusted; rotate its keys",
        )
    return signed


def check_counter(release: ReleaseId, floor: int) -> None:
    """A model's counter never goes below that of a release the device has committed to.

    Args:
        release: what is assigned.
        floor: highest counter of that model committed to on this device; 0 if none.

    Raises:
        Refusal: it does.
    """
    if release.counter < floor:
        raise Refusal(
            Rule.COUNTER,
            "director/targets",
            f"{release} is older than release {floor}, which this device has run (rollback)",
            remedy="to go back on purpose, sign the old bundle as a new release",
        )


def _told(release: Assignment) -> str:
    manifest = release.manifest
    return (
        f"{release.release} as {manifest.digest.short}…, {manifest.size} bytes, {release.version}"
        + (f", sealed under {release.key[:12]}…" if release.key else "")
    )
