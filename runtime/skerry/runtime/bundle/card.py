"""What a bundle says of itself: the model card, a JSON blob that the signed manifest names.

Its media type is `application/vnd.skerry.card.v1+json`. Decoding refuses unknown versions; fields
that a later minor version adds are ignored.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import BundleError

__all__ = ["ArtifactSpec", "BlobRef", "Card", "Format", "TensorSpec", "Tolerance"]

Format = Literal["onnx", "tflite", "coreml"]


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output as callers see it.

    Attributes:
        name: the name callers use.
        dtype: a numpy dtype name, such as `float32` or `uint8`; `str` for strings of any length.
        shape: one entry per axis; -1 where any length is accepted. Axis 0 is the batch.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class BlobRef(msgspec.Struct, frozen=True):
    """A blob of the same bundle, by content."""

    digest: str
    size: int

    def descriptor(self) -> Descriptor:
        """The digest and size, checked."""
        return Descriptor(Digest(self.digest), self.size)


class Tolerance(msgspec.Struct, frozen=True):
    """How far an artifact's outputs may lie from its golden outputs on another machine.

    Attributes:
        atol: largest absolute difference of any output element.
        argmax: smallest share of golden rows whose argmax over the last axis must agree, 0 to 1.
    """

    atol: float
    argmax: float = 0.0


class ArtifactSpec(msgspec.Struct, frozen=True):
    """One runnable file of the bundle.

    Attributes:
        name: `<format>-<precision>`, unique in the bundle.
        filename: the name to give the file; a Core ML package is a tar, `….mlpackage.tar`.
        inputs, outputs: the artifact's own tensor names, in the order of the card's.
        tolerance: what the golden test allows.
        metrics: what the build measured of it, by name (`top1`, `agreement`, `snr_db`, …).
    """

    name: str
    format: Format
    precision: str
    blob: BlobRef
    filename: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: Tolerance
    metrics: dict[str, float] = {}


class Card(msgspec.Struct, frozen=True):
    """Everything a device or a person needs to know of a bundle before opening an artifact.

    Attributes:
        schema: the version of this form.
        model, version: the model's name, and its maker's version of it.
        inputs, outputs: the signature callers see; every artifact answers to it.
        labels: class names of the first output's last axis, or empty.
        golden: a safetensors blob: `input/<name>` and `output/<artifact>/<name>`, N rows each.
        reference: a msgpack blob of reference sketches (skerry.runtime.sketches), or None.
        documents: report, ML-BOM and provenance, by file name.
    """

    model: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    artifacts: tuple[ArtifactSpec, ...]
    golden: BlobRef
    reference: BlobRef | None = None
    labels: tuple[str, ...] = ()
    documents: dict[str, BlobRef] = {}
    schema: Literal[1] = 1

    def encode(self) -> bytes:
        """The card as deterministic JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, data: bytes) -> Card:
        """Read a card.

        Raises:
            BundleError: the JSON is malformed, incomplete or of another schema.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BundleError(f"not a model card: {error}", where="card") from error

    def artifact(self, name: str) -> ArtifactSpec:
        """The artifact called `name`.

        Raises:
            BundleError: there is none; the error lists those there are.
        """
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        names = ", ".join(artifact.name for artifact in self.artifacts)
        raise BundleError(f"no artifact {name!r}", where=self.model, remedy=f"there are: {names}")
