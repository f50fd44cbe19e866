"""A release as the repository keeps it: one target, whose bytes are the bundle's manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import TargetFile, Targets

from skerry.devices.digest import Descriptor
from skerry.devices.errors import InputError
from skerry.devices.ids import ModelName, ReleaseId
from skerry.updater.trust.assignment import release_of, release_path

__all__ = ["Release", "last_counter", "releases_in", "target_of", "withdrawn"]


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """A bundle whose manifest is signed.

    Attributes:
        id: model and counter.
        version: what people call it.
        manifest: the bundle's OCI manifest.
        key: the id of the content key its blobs are sealed under; "" if they are plain.
    """

    id: ReleaseId
    version: str
    manifest: Descriptor
    key: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON: model, counter, version, manifest, size, key."""
        return {
            "model": str(self.id.model),
            "counter": self.id.counter,
            "version": self.version,
            "manifest": str(self.manifest.digest),
            "size": self.manifest.size,
            "key": self.key,
        }


def target_of(release: Release) -> TargetFile:
    """The target that says what `release` is."""
    named = {
        "model": str(release.id.model),
        "version": release.version,
        "counter": release.id.counter,
        **({"key": release.key} if release.key else {}),
    }
    return TargetFile(
        release.manifest.size,
        {"sha256": release.manifest.digest.hex},
        release_path(release.id),
        {"custom": {"skerry": named}},
    )


def last_counter(targets: Targets, model: ModelName) -> int:
    """The highest counter that `model` ever had here, withdrawn releases included; 0 if none."""
    marks = targets.unrecognized_fields.get("skerry", {}).get("counters", {})
    here = [r.id.counter for r in releases_in(targets) if r.id.model == model]
    return max([int(marks.get(str(model), 0)), *here])


def withdrawn(targets: Targets, release: ReleaseId) -> None:
    """Take `release` out of `targets`; its counter is remembered, and never given again.

    Raises:
        InputError: there is no such release.
    """
    last = last_counter(targets, release.model)
    if targets.targets.pop(release_path(release), None) is None:
        remedy = "see `skerry release list`"
        raise InputError("is no release of this repository", where=release, remedy=remedy)
    field = targets.unrecognized_fields.setdefault("skerry", {})
    field.setdefault("counters", {})[str(release.model)] = last


def releases_in(targets: Targets) -> list[Release]:
    """Every release of `targets`, by model and counter.

    Raises:
        Refusal: a target is not a release.
    """
    found = []
    for target in targets.targets.values():
        said = release_of(target, "targets")
        found.append(Release(said.release, said.version, said.manifest, said.key))
    return sorted(found, key=lambda release: (release.id.model.text, release.id.counter))
