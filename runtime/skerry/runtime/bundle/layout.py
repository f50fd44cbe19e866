"""The form of a bundle: OCI image layout and manifest with CNCF ModelPack media types, as types.

Parsing is strict: every size is bounded before it is believed, and a manifest with a layer of a
type that this version does not know is refused. OCI image spec 1.1, ModelPack model-spec 0.0.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import BundleError, InputError

__all__ = [
    "CARD_TYPE",
    "CONFIG_TYPE",
    "DOCUMENT_TYPE",
    "GOLDEN_TYPE",
    "LAYER_TYPES",
    "MANIFEST_TYPE",
    "MODEL_TYPE",
    "NAME_ANNOTATION",
    "RAW_WEIGHT_TYPE",
    "REFERENCE_TYPE",
    "TAR_WEIGHT_TYPE",
    "Index",
    "Layer",
    "Limits",
    "Manifest",
    "parse_index",
    "parse_manifest",
]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
CARD_TYPE = "application/vnd.skerry.card.v1+json"
RAW_WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
TAR_WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.tar"
GOLDEN_TYPE = "application/vnd.skerry.golden.v1.safetensors"
REFERENCE_TYPE = "application/vnd.skerry.reference.v1+msgpack"
DOCUMENT_TYPE = "application/vnd.cncf.model.doc.v1.raw"
LAYER_TYPES = frozenset(
    {
        CARD_TYPE,
        RAW_WEIGHT_TYPE,
        TAR_WEIGHT_TYPE,
        GOLDEN_TYPE,
        REFERENCE_TYPE,
        DOCUMENT_TYPE,
    }
)
NAME_ANNOTATION = "org.cncf.model.filepath"

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a bundle may claim before it is believed.

    Attributes:
        index_bytes, manifest_bytes, card_bytes, golden_bytes, reference_bytes, document_bytes: the
            largest JSON or data blob of each kind that is read into memory.
        artifact_bytes: the largest artifact.
        layers: the most layers of one manifest.
    """

    index_bytes: int = 1 << 16
    manifest_bytes: int = 1 << 20
    card_bytes: int = 1 << 20
    golden_bytes: int = 256 << 20
    reference_bytes: int = 16 << 20
    document_bytes: int = 64 << 20
    artifact_bytes: int = 8 << 30
    layers: int = 256

    def of_layer(self, media_type: str) -> int:
        """The largest size in bytes of a layer of `media_type`."""
        return {
            CARD_TYPE: self.card_bytes,
            GOLDEN_TYPE: self.golden_bytes,
            REFERENCE_TYPE: self.reference_bytes,
            DOCUMENT_TYPE: self.document_bytes,
        }.get(media_type, self.artifact_bytes)


class Layer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An OCI content descriptor: a config, a layer, or the manifest itself in an index."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    artifact_type: str | None = None

    @property
    def name(self) -> str:
        """The file name the layer carries, or an empty text."""
        return self.annotations.get(NAME_ANNOTATION, "")

    def descriptor(self) -> Descriptor:
        """The digest and size, checked."""
        return Descriptor(Digest(self.digest), self.size)


class Manifest(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An OCI image manifest that holds a model."""

    schema_version: int
    media_type: str
    artifact_type: str
    config: Layer
    layers: tuple[Layer, ...]
    annotations: dict[str, str] = {}

    @property
    def card(self) -> Descriptor:
        """Where the card is: what a device fetches next after the manifest."""
        return self._only(CARD_TYPE).descriptor()

    def descriptors(self) -> tuple[Descriptor, ...]:
        """The config and every layer, each content once, in the manifest's order."""
        return tuple(dict.fromkeys(layer.descriptor() for layer in (self.config, *self.layers)))

    def of_type(self, media_type: str) -> tuple[Layer, ...]:
        """The layers of one media type."""
        return tuple(layer for layer in self.layers if layer.media_type == media_type)

    def encode(self) -> bytes:
        """The manifest as deterministic JSON."""
        return msgspec.json.encode(self, order="deterministic")

    def _only(self, media_type: str) -> Layer:
        found = self.of_type(media_type)
        if len(found) != 1:
            raise BundleError(f"{len(found)} layers of type {media_type}", where="manifest")
        return found[0]


class Index(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The entry point of an image layout, `index.json`, with one manifest."""

    schema_version: Literal[2]
    manifests: tuple[Layer, ...]
    media_type: str = ""

    def encode(self) -> bytes:
        """The index as deterministic JSON."""
        return msgspec.json.encode(self, order="deterministic")


def parse_index(data: bytes, limits: Limits) -> Descriptor:
    """Read `index.json`; where its one manifest is.

    Raises:
        BundleError: too large, malformed, or not exactly one manifest of a model.
    """
    if len(data) > limits.index_bytes:
        raise BundleError(f"more than {limits.index_bytes} bytes", where="index.json")
    try:
        index = msgspec.json.decode(data, type=Index)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"not an OCI index: {error}", where="index.json") from error
    if len(index.manifests) != 1:
        raise BundleError(f"{len(index.manifests)} manifests, expected one", where="index.json")
    entry = index.manifests[0]
    if entry.media_type != MANIFEST_TYPE:
        raise BundleError(f"unknown media type {entry.media_type!r}", where="index.json")
    return _descriptor(entry, limits.manifest_bytes, "index.json")


def parse_manifest(data: bytes, limits: Limits | None = None) -> Manifest:
    """Read a manifest whose digest has been checked.

    Raises:
        BundleError: too large, malformed, of another kind, a layer of an unknown type or beyond its
            limit, or two layers with one name.
    """
    limits = limits or Limits()
    if len(data) > limits.manifest_bytes:
        raise BundleError(f"more than {limits.manifest_bytes} bytes", where="manifest")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"not an OCI manifest: {error}", where="manifest") from error
    _check_kind(manifest)
    if len(manifest.layers) > limits.layers:
        raise BundleError(f"more than {limits.layers} layers", where="manifest")
    _descriptor(manifest.config, limits.card_bytes, "manifest: config")
    names: set[str] = set()
    for layer in manifest.layers:
        _check_layer(layer, names, limits)
    manifest._only(CARD_TYPE)
    return manifest


def _check_kind(manifest: Manifest) -> None:
    for found, expected in [
        (manifest.schema_version, 2),
        (manifest.media_type, MANIFEST_TYPE),
        (manifest.artifact_type, MODEL_TYPE),
        (manifest.config.media_type, CONFIG_TYPE),
    ]:
        if found != expected:
            raise BundleError(
                f"{str(found)[:80]!r} where {expected!r} was expected",
                where="manifest",
                remedy="this is no skerry bundle, or one of a later form",
            )


def _check_layer(layer: Layer, names: set[str], limits: Limits) -> None:
    if layer.media_type not in LAYER_TYPES:
        raise BundleError(f"unknown media type {layer.media_type[:80]!r}", where="manifest")
    if not _FILE_NAME.fullmatch(layer.name):
        raise BundleError(f"{layer.name[:80]!r} is not a file name", where="manifest")
    if layer.name in names:
        raise BundleError(f"two layers are called {layer.name!r}", where="manifest")
    names.add(layer.name)
    _descriptor(layer, limits.of_layer(layer.media_type), f"manifest: {layer.name}")


def _descriptor(layer: Layer, limit: int, where: str) -> Descriptor:
    try:
        descriptor = layer.descriptor()
    except InputError as error:
        raise BundleError(error.problem, where=where) from error
    if descriptor.size > limit:
        raise BundleError(f"{descriptor.size} bytes, the limit is {limit}", where=where)
    return descriptor
