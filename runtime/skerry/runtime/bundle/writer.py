"""Writing a bundle: the same content gives the same bytes, and nothing half-written is seen."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from skerry.devices.digest import Descriptor, Digest, digest_file
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import RealDisk, write_atomically
from skerry.runtime.blobs import FolderBlobs
from skerry.runtime.bundle.arrays import write_arrays
from skerry.runtime.bundle.card import ArtifactSpec, BlobRef, Card, Format, TensorSpec, Tolerance
from skerry.runtime.bundle.layout import (
    CARD_TYPE,
    CONFIG_TYPE,
    DOCUMENT_TYPE,
    GOLDEN_TYPE,
    MANIFEST_TYPE,
    MODEL_TYPE,
    NAME_ANNOTATION,
    RAW_WEIGHT_TYPE,
    REFERENCE_TYPE,
    TAR_WEIGHT_TYPE,
    Index,
    Layer,
    Manifest,
)
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.bundle.strings import code_points

__all__ = ["ArtifactFile", "write_bundle"]

_CHUNK_BYTES = 1 << 20
_SUFFIX: dict[Format, str] = {"onnx": ".onnx", "tflite": ".tflite", "coreml": ".mlpackage.tar"}
_OCI_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """A file to put into a bundle.

    Attributes:
        path: an .onnx or .tflite file; for Core ML an .mlpackage folder, or a tar of one.
        inputs, outputs: the file's own tensor names, in the order of the card's.
        golden: what this artifact gave for the golden inputs, by the card's output names.
    """

    path: Path
    format: Format
    precision: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: Tolerance
    golden: Mapping[str, NDArray[Any]]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`<format>-<precision>`."""
        return f"{self.format}-{self.precision}"


def write_bundle(
    folder: Path,
    *,
    model: str,
    version: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    artifacts: Sequence[ArtifactFile],
    golden_inputs: Mapping[str, NDArray[Any]],
    reference: bytes | None = None,
    labels: Sequence[str] = (),
    documents: Mapping[str, bytes] | None = None,
) -> Descriptor:
    """Make `folder` a bundle. An earlier bundle there is replaced, anything else is refused.

    Args:
        golden_inputs: N rows by the card's input names.
        reference: encoded reference sketches for drift.
        documents: content by file name.

    Returns:
        The descriptor of the manifest.

    Raises:
        InputError: the folder holds something else.
        BundleError: what was given contradicts itself.
        UnavailableError: the disk is full or not writable.
    """
    folder = folder.absolute()
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise UnavailableError(f"cannot write: {error.strerror}", where=folder) from error
    try:
        content = _Content(FolderBlobs(staging))
        card = Card(
            model=model,
            version=version,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            artifacts=tuple(_add_artifact(content, artifact) for artifact in artifacts),
            golden=content.add(
                _golden(golden_inputs, artifacts), GOLDEN_TYPE, "golden.safetensors"
            ),
            reference=None
            if reference is None
            else content.add(reference, REFERENCE_TYPE, "reference.msgpack"),
            labels=tuple(labels),
            documents={
                name: content.add(data, DOCUMENT_TYPE, name)
                for name, data in sorted((documents or {}).items())
            },
        )
        content.add(card.encode(), CARD_TYPE, "card.json")
        manifest = _finish(staging, content, card)
        Bundle.open(staging)
        staging.chmod(0o755)
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


@dataclass
class _Content:
    """The blobs put so far, and the layers that name them."""

    blobs: FolderBlobs
    layers: list[Layer] = field(default_factory=list)

    def add(self, data: bytes, media_type: str, name: str) -> BlobRef:
        blob = Descriptor(Digest.of(data), len(data))
        self.blobs.put(blob, [data])
        return self._layer(blob, media_type, name)

    def add_file(self, path: Path, media_type: str, name: str) -> BlobRef:
        blob = digest_file(path)
        self.blobs.put(blob, _chunks(path))
        return self._layer(blob, media_type, name)

    def _layer(self, blob: Descriptor, media_type: str, name: str) -> BlobRef:
        layer = Layer(media_type, str(blob.digest), blob.size, {NAME_ANNOTATION: name})
        self.layers.append(layer)
        return BlobRef(layer.digest, layer.size)


def _add_artifact(content: _Content, artifact: ArtifactFile) -> ArtifactSpec:
    filename = artifact.name + _SUFFIX[artifact.format]
    media_type = TAR_WEIGHT_TYPE if artifact.format == "coreml" else RAW_WEIGHT_TYPE
    if artifact.path.is_dir():
        if artifact.format != "coreml":
            raise InputError("a folder where a file was expected", where=artifact.path)
        blob = content.add(_tar(artifact.path), media_type, filename)
    else:
        try:
            blob = content.add_file(artifact.path, media_type, filename)
        except OSError as error:
            raise InputError(f"cannot read: {error.strerror}", where=artifact.path) from error
    return ArtifactSpec(
        name=artifact.name,
        format=artifact.format,
        precision=artifact.precision,
        blob=blob,
        filename=filename,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        tolerance=artifact.tolerance,
        metrics=dict(artifact.metrics),
    )


def _golden(inputs: Mapping[str, NDArray[Any]], artifacts: Sequence[ArtifactFile]) -> bytes:
    arrays = {f"input/{name}": array for name, array in inputs.items()}
    for artifact in artifacts:
        for name, array in artifact.golden.items():
            arrays[f"output/{artifact.name}/{name}"] = array
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"golden arrays differ in length: {lengths}", where="golden samples")
    for name, array in arrays.items():
        if array.dtype.kind == "U":
            arrays[name] = code_points(array)
    return write_arrays(arrays)


def _tar(package: Path) -> bytes:
    """A Core ML package as an uncompressed tar: sorted names, no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(package.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise InputError("neither a file nor a folder", where=path)
            info = tarfile.TarInfo(path.relative_to(package).as_posix())
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                info.size, info.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    archive.addfile(info, file)
    return buffer.getvalue()


def _finish(staging: Path, content: _Content, card: Card) -> Descriptor:
    """Write config, manifest, index and layout marker, in this order."""
    config = {
        "descriptor": {"name": card.model, "version": card.version},
        "config": {"format": ",".join(sorted({item.format for item in card.artifacts}))},
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in content.layers]},
    }
    data = msgspec.json.encode(config, order="deterministic")
    blob = Descriptor(Digest.of(data), len(data))
    content.blobs.put(blob, [data])
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=MODEL_TYPE,
        config=Layer(CONFIG_TYPE, str(blob.digest), blob.size),
        layers=tuple(content.layers),
    ).encode()
    descriptor = Descriptor(Digest.of(manifest), len(manifest))
    content.blobs.put(descriptor, [manifest])
    tag = card.version if _OCI_TAG.fullmatch(card.version) else "latest"
    entry = Layer(
        MANIFEST_TYPE,
        str(descriptor.digest),
        descriptor.size,
        {"org.opencontainers.image.ref.name": tag},
        MODEL_TYPE,
    )
    write_atomically(staging / "index.json", Index(2, (entry,)).encode())
    write_atomically(staging / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return descriptor


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / "oci-layout").is_file() and any(folder.iterdir()):
        raise InputError("the folder holds something else", where=folder, remedy="name another")


def _swap(staging: Path, folder: Path) -> None:
    """Put the finished folder in its place; an earlier one is set aside first and then removed."""
    disk, aside = RealDisk(), None
    try:
        if folder.exists():
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
            disk.replace(folder, aside)
        disk.replace(staging, folder)
        disk.sync_folder(folder.parent)
    except OSError as error:
        raise UnavailableError(f"cannot write: {error.strerror}", where=folder) from error
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
