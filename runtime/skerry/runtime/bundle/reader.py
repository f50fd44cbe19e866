"""Opening a bundle, from an OCI layout folder or from a device's store.

Every byte is matched to a digest before it is parsed: the index names the manifest, the manifest
the card, the card the artifacts. A device that holds only the blobs it chose opens the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.digest import Descriptor, Digest, digest_rest
from skerry.devices.errors import BundleError, DigestMismatch
from skerry.runtime.blobs import BlobStore, FolderBlobs, reading
from skerry.runtime.bundle.arrays import read_arrays
from skerry.runtime.bundle.card import ArtifactSpec, BlobRef, Card, TensorSpec
from skerry.runtime.bundle.layout import (
    DOCUMENT_TYPE,
    GOLDEN_TYPE,
    RAW_WEIGHT_TYPE,
    REFERENCE_TYPE,
    TAR_WEIGHT_TYPE,
    Layer,
    Limits,
    Manifest,
    parse_index,
    parse_manifest,
)
from skerry.runtime.bundle.strings import from_code_points

__all__ = ["DTYPES", "Bundle"]

DTYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "float32", "float64", "str"}
)


class Bundle:
    """One version of a model: its card, and its blobs by content.

    Attributes:
        blobs: where the blobs lie.
        manifest: the digest and size of the manifest: the bundle's identity.
        manifest_bytes: the manifest as it was signed.
        card: what the bundle says of itself.
    """

    def __init__(
        self, blobs: BlobStore, manifest: Descriptor, manifest_bytes: bytes, limits: Limits
    ) -> None:
        self.blobs = blobs
        self.manifest = manifest
        self.manifest_bytes = manifest_bytes
        self._manifest = parse_manifest(manifest_bytes, limits)
        self.card = Card.decode(blobs.read(self._manifest.card))
        _check_card(self.card, self._manifest)

    @classmethod
    def open(cls, path: Path, limits: Limits | None = None) -> Bundle:
        """Open the OCI layout in the folder `path`.

        Raises:
            BundleError: it is no layout, or not of a skerry bundle.
            DigestMismatch: manifest or card is not what its digest says.
            UnavailableError: the disk does not let it be read.
        """
        limits = limits or Limits()
        index = path / "index.json"
        with reading(index):
            if not (path / "oci-layout").is_file() or not index.is_file():
                raise BundleError("not a bundle: no OCI image layout", where=path)
            if index.stat().st_size > limits.index_bytes:
                raise BundleError(f"more than {limits.index_bytes} bytes", where=index)
            text = index.read_bytes()
        return cls.of(FolderBlobs(path), parse_index(text, limits), limits)

    @classmethod
    def of(cls, blobs: BlobStore, manifest: Descriptor, limits: Limits | None = None) -> Bundle:
        """Open the bundle whose manifest is `manifest`, in a store that has it and its card.

        Raises:
            BundleError: manifest or card is missing, malformed or contradicts the other.
            DigestMismatch: manifest or card is not what its digest says.
            UnavailableError: the disk does not let it be read.
        """
        limits = limits or Limits()
        if manifest.size > limits.manifest_bytes:
            raise BundleError(f"more than {limits.manifest_bytes} bytes", where="manifest")
        return cls(blobs, manifest, blobs.read(manifest), limits)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer of the manifest."""
        return self._manifest.layers

    @property
    def card_blob(self) -> Descriptor:
        """The blob that holds the card."""
        return self._manifest.card

    def descriptors(self) -> tuple[Descriptor, ...]:
        """Config and layers: what a publisher uploads, beside the manifest itself."""
        return self._manifest.descriptors()

    def needed_blobs(self, artifact: str) -> tuple[Descriptor, ...]:
        """What a device that chose `artifact` fetches: card, artifact, golden samples, reference.

        Raises:
            BundleError: there is no such artifact.
        """
        refs = [self.card.artifact(artifact).blob, self.card.golden]
        if self.card.reference is not None:
            refs.append(self.card.reference)
        return (self._manifest.card, *(ref.descriptor() for ref in refs))

    def verify(self, artifact: str | None = None) -> tuple[Descriptor, ...]:
        """Hash every blob, or those that `artifact` needs. Returns what was checked.

        Raises:
            BundleError: a blob is missing, or there is no such artifact.
            DigestMismatch: a blob is not what its digest says.
            UnavailableError: the disk does not let one be read.
        """
        checked = self.descriptors() if artifact is None else self.needed_blobs(artifact)
        for expected in checked:
            where = f"blob {expected.digest.hex}"
            with self.blobs.open(expected.digest) as file, reading(Path(where)):
                found = digest_rest(file)
            if found.size != expected.size:
                raise DigestMismatch(f"{found.size} bytes, expected {expected.size}", where=where)
            if found != expected:
                raise DigestMismatch(
                    "the bytes are not what their name says", where=where, remedy="fetch it again"
                )
        return checked

    def path(self, ref: BlobRef) -> Path:
        """The file that holds a blob. Its bytes are not checked here."""
        return self.blobs.path(ref.descriptor().digest)

    def read(self, ref: BlobRef) -> bytes:
        """A blob's bytes, matched to their digest."""
        return self.blobs.read(ref.descriptor())

    def golden(self) -> dict[str, NDArray[Any]]:
        """The golden arrays: `input/<name>` and `output/<artifact>/<name>`, N rows each.

        Raises:
            BundleError: the blob is not safetensors, lacks an input, or its strings are none.
        """
        try:
            arrays = read_arrays(self.read(self.card.golden))
        except BundleError as error:
            raise BundleError(f"not safetensors: {error}", where="golden samples") from error
        rows = {len(array) if array.ndim else 0 for array in arrays.values()}
        if len(rows) > 1 or rows == {0}:
            raise BundleError("the arrays differ in length", where="golden samples")
        for spec in self.card.inputs:
            if f"input/{spec.name}" not in arrays:
                raise BundleError(f"no input {spec.name!r}", where="golden samples")
        for name in self._texts() & arrays.keys():
            arrays[name] = from_code_points(arrays[name])
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def _texts(self) -> set[str]:
        """The names of golden arrays that are strings."""
        names = {f"input/{spec.name}" for spec in self.card.inputs if spec.dtype == "str"}
        for spec in self.card.outputs:
            if spec.dtype == "str":
                names |= {f"output/{one.name}/{spec.name}" for one in self.card.artifacts}
        return names

    def reference(self) -> bytes | None:
        """The reference sketches, as `skerry.runtime.sketches` encodes them; None without."""
        return None if self.card.reference is None else self.read(self.card.reference)

    def document(self, name: str) -> bytes:
        """The document called `name`.

        Raises:
            BundleError: there is none; the error lists those there are.
        """
        if name not in self.card.documents:
            names = ", ".join(sorted(self.card.documents)) or "none"
            raise BundleError(f"no document {name!r}", remedy=f"there are: {names}")
        return self.read(self.card.documents[name])


def _check_card(card: Card, manifest: Manifest) -> None:
    """That the card is consistent with itself and names only blobs of its manifest."""
    if not card.artifacts or not card.inputs or not card.outputs:
        raise BundleError("without artifacts, inputs or outputs", where="card")
    _unique([artifact.name for artifact in card.artifacts], "artifacts")
    for specs, what in ((card.inputs, "inputs"), (card.outputs, "outputs")):
        _unique([spec.name for spec in specs], what)
        for spec in specs:
            _check_tensor(spec)
    for artifact in card.artifacts:
        _check_artifact(artifact, card)
        weight = TAR_WEIGHT_TYPE if artifact.format == "coreml" else RAW_WEIGHT_TYPE
        _check_ref(artifact.blob, weight, manifest, artifact.name)
    _check_ref(card.golden, GOLDEN_TYPE, manifest, "golden")
    if card.reference is not None:
        _check_ref(card.reference, REFERENCE_TYPE, manifest, "reference")
    for name, ref in card.documents.items():
        _check_ref(ref, DOCUMENT_TYPE, manifest, name)


def _check_tensor(spec: TensorSpec) -> None:
    if spec.dtype not in DTYPES:
        raise BundleError(f"unknown dtype {spec.dtype[:40]!r}", where=f"card: {spec.name}")
    if not spec.shape or any(length < 1 and length != -1 for length in spec.shape):
        raise BundleError(f"impossible shape {spec.shape}", where=f"card: {spec.name}")


def _check_artifact(artifact: ArtifactSpec, card: Card) -> None:
    if artifact.name != f"{artifact.format}-{artifact.precision}":
        raise BundleError("the name is not format-precision", where=f"card: {artifact.name}")
    if len(artifact.inputs) != len(card.inputs) or len(artifact.outputs) != len(card.outputs):
        raise BundleError("other inputs or outputs than the card", where=f"card: {artifact.name}")


def _check_ref(ref: BlobRef, media_type: str, manifest: Manifest, what: str) -> None:
    Digest(ref.digest)
    for layer in manifest.of_type(media_type):
        if layer.digest == ref.digest and layer.size == ref.size:
            return
    raise BundleError(f"the manifest has no {media_type} with this digest", where=f"card: {what}")


def _unique(names: list[str], what: str) -> None:
    if len(set(names)) != len(names):
        raise BundleError(f"two {what} have one name", where="card")
