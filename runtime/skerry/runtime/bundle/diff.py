"""What changed from one bundle to another: a rule over two bundles' cards and manifests."""

from __future__ import annotations

import msgspec

from skerry.runtime.bundle.card import ArtifactSpec, BlobRef, Card, TensorSpec
from skerry.runtime.bundle.reader import Bundle

__all__ = ["ArtifactChange", "BundleDiff", "diff"]


class ArtifactChange(msgspec.Struct, frozen=True):
    """An artifact in both bundles whose bytes differ, or in one of them alone.

    Attributes:
        before, after: size in bytes; None where it is missing.
        metrics: for each metric of both, the values before and after.
    """

    name: str
    before: int | None
    after: int | None
    metrics: dict[str, tuple[float, float]] = {}


class BundleDiff(msgspec.Struct, frozen=True):
    """Everything that changed.

    Attributes:
        same: whether both are the same bundle, byte for byte.
        compatible: whether callers of the first can call the second: the signatures are equal.
        signature: in words, what changed of inputs, outputs and labels.
        shared_bytes, new_bytes: of the second bundle's blobs, those the first has, and the others.
    """

    before: str
    after: str
    same: bool
    compatible: bool
    signature: tuple[str, ...]
    artifacts: tuple[ArtifactChange, ...]
    documents: tuple[str, ...]
    shared_bytes: int
    new_bytes: int


def diff(old: Bundle, new: Bundle) -> BundleDiff:
    """Compare two bundles by their cards and digests; no artifact is read."""
    have = {blob.digest for blob in old.descriptors()}
    shared = sum(blob.size for blob in new.descriptors() if blob.digest in have)
    total = sum(blob.size for blob in new.descriptors())
    signature = (
        *_tensors("input", old.card.inputs, new.card.inputs),
        *_tensors("output", old.card.outputs, new.card.outputs),
    )
    labels = ("labels differ",) if old.card.labels != new.card.labels else ()
    return BundleDiff(
        before=f"{old.card.model} {old.card.version}",
        after=f"{new.card.model} {new.card.version}",
        same=old.manifest == new.manifest,
        compatible=old.card.model == new.card.model and not signature,
        signature=signature + labels,
        artifacts=_artifacts(old.card, new.card),
        documents=_names(old.card.documents, new.card.documents),
        shared_bytes=shared,
        new_bytes=total - shared,
    )


def _tensors(
    what: str, old: tuple[TensorSpec, ...], new: tuple[TensorSpec, ...]
) -> tuple[str, ...]:
    before, after = {spec.name: spec for spec in old}, {spec.name: spec for spec in new}
    found = [f"{what} {name} is gone" for name in before if name not in after]
    found += [f"{what} {name} is new" for name in after if name not in before]
    for name in before.keys() & after.keys():
        one, two = before[name], after[name]
        if one != two:
            found.append(
                f"{what} {name}: {one.dtype} {list(one.shape)} → {two.dtype} {list(two.shape)}"
            )
    if not found and list(before) != list(after):
        found.append(f"the {what}s are in another order")
    return tuple(sorted(found))


def _artifacts(old: Card, new: Card) -> tuple[ArtifactChange, ...]:
    before = {artifact.name: artifact for artifact in old.artifacts}
    after = {artifact.name: artifact for artifact in new.artifacts}
    changes = []
    for name in sorted(before.keys() | after.keys()):
        one, two = before.get(name), after.get(name)
        if one is None or two is None or one.blob != two.blob:
            changes.append(ArtifactChange(name, _size(one), _size(two), _metrics(one, two)))
    return tuple(changes)


def _size(artifact: ArtifactSpec | None) -> int | None:
    return None if artifact is None else artifact.blob.size


def _metrics(one: ArtifactSpec | None, two: ArtifactSpec | None) -> dict[str, tuple[float, float]]:
    if one is None or two is None:
        return {}
    names = sorted(one.metrics.keys() & two.metrics.keys())
    return {name: (one.metrics[name], two.metrics[name]) for name in names}


def _names(old: dict[str, BlobRef], new: dict[str, BlobRef]) -> tuple[str, ...]:
    """The documents that differ, or are in one bundle alone."""
    return tuple(name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))
