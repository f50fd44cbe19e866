import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.bundles import make_bundle
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import (
    BundleError,
    DigestMismatch,
    InputError,
    SkerryError,
    UnavailableError,
)
from skerry.runtime.blobs import FolderBlobs
from skerry.runtime.bundle.card import BlobRef, Card, TensorSpec, Tolerance
from skerry.runtime.bundle.layout import Limits, parse_index, parse_manifest
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _forge(bundle: Bundle, change: Any) -> tuple[FolderBlobs, Descriptor]:
    """The bundle with its card changed by `change`, and every digest above it made right."""
    blobs = bundle.blobs
    assert isinstance(blobs, FolderBlobs)
    card = json.loads(bundle.card.encode())
    change(card)
    data = json.dumps(card).encode()
    new = Descriptor(Digest.of(data), len(data))
    blobs.put(new, [data])
    manifest = json.loads(bundle.manifest_bytes)
    for layer in manifest["layers"]:
        if layer["mediaType"].endswith("card.v1+json"):
            layer["digest"], layer["size"] = str(new.digest), new.size
    data = json.dumps(manifest).encode()
    forged = Descriptor(Digest.of(data), len(data))
    blobs.put(forged, [data])
    return blobs, forged


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "a", formats=("onnx", "tflite"))
    two = make_bundle(tmp_path / "b", formats=("onnx", "tflite"))
    assert _files(one) == _files(two)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"a", "b"}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "b", formats=("onnx", "tflite")))
    assert [a.name for a in bundle.card.artifacts] == ["onnx-fp32", "tflite-fp32"]
    assert len(bundle.verify()) == len(bundle.descriptors()) == 6
    golden = bundle.golden()
    assert golden["input/x"].shape == (8, 4)
    assert golden["output/tflite-fp32/y"].dtype == np.float32
    assert bundle.document("report.html") == b"<p>report</p>"
    assert bundle.reference() is None
    with pytest.raises(BundleError, match=r"report\.html"):
        bundle.document("none")


def test_a_device_needs_only_what_it_chose(tmp_path: Path) -> None:
    full = Bundle.open(make_bundle(tmp_path / "b", formats=("onnx", "tflite")))
    store = FolderBlobs(tmp_path / "store")
    manifest = parse_manifest(full.manifest_bytes)
    for blob in (full.manifest, manifest.card):
        store.put(blob, [full.blobs.read(blob)])
    bundle = Bundle.of(store, full.manifest)
    needed = bundle.needed_blobs("tflite-fp32")
    for blob in needed:
        store.put(blob, [full.blobs.read(blob)])
    assert bundle.verify("tflite-fp32") == needed
    with pytest.raises(BundleError, match="missing"):
        bundle.verify()


def test_an_earlier_bundle_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", version="1")
    make_bundle(folder, version="2")
    assert Bundle.open(folder).card.version == "2"
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["b"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="something else"):
        make_bundle(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_failed_write_leaves_the_earlier_bundle(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    before = _files(folder)
    x = np.zeros((2, 4), np.float32)
    artifact = ArtifactFile(
        path=tmp_path / "gone.onnx",
        format="onnx",
        precision="fp32",
        inputs=("in",),
        outputs=("out",),
        tolerance=Tolerance(0.0),
        golden={"y": x},
    )
    spec = [TensorSpec("x", "float32", (-1, 4))]
    with pytest.raises(InputError, match=r"gone\.onnx"):
        write_bundle(
            folder,
            model="m",
            version="2",
            inputs=spec,
            outputs=spec,
            artifacts=[artifact],
            golden_inputs={"x": x},
        )
    assert _files(folder) == before
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["b"]


def test_a_core_ml_package_becomes_a_deterministic_tar(tmp_path: Path) -> None:
    package = tmp_path / "m.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data" / "weight.bin").write_bytes(b"w" * 10)
    (package / "Manifest.json").write_text("{}")
    x = np.zeros((2, 4), np.float32)
    spec = [TensorSpec("x", "float32", (-1, 4))]
    write_bundle(
        tmp_path / "b",
        model="m",
        version="1",
        inputs=spec,
        outputs=spec,
        artifacts=[
            ArtifactFile(
                path=package,
                format="coreml",
                precision="int8",
                inputs=("x",),
                outputs=("y",),
                tolerance=Tolerance(0.0),
                golden={"x": x},
            )
        ],
        golden_inputs={"x": x},
    )
    bundle = Bundle.open(tmp_path / "b")
    with tarfile.open(fileobj=io.BytesIO(bundle.read(bundle.card.artifacts[0].blob))) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == ["Data", "Data/weight.bin", "Manifest.json"]
    assert {(m.mtime, m.uid, m.uname) for m in members} == {(0, 0, "")}


@pytest.mark.parametrize("which", ["manifest", "card", "artifact"])
def test_a_changed_byte_is_found(tmp_path: Path, which: str) -> None:
    folder = make_bundle(tmp_path / "b")
    bundle = Bundle.open(folder)
    digest = {
        "manifest": bundle.manifest.digest,
        "card": parse_manifest(bundle.manifest_bytes).card.digest,
        "artifact": bundle.card.artifacts[0].blob.descriptor().digest,
    }[which]
    path = folder / "blobs" / "sha256" / digest.hex
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatch):
        Bundle.open(folder).verify()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["artifacts"].append(c["artifacts"][0]), "two artifacts"),
        (lambda c: c["artifacts"][0].update(name="other"), "format-precision"),
        (lambda c: c["artifacts"][0].update(inputs=[]), "other inputs"),
        (lambda c: c["artifacts"][0]["blob"].update(digest="sha256:" + "0" * 64), "no application"),
        (lambda c: c["artifacts"][0]["blob"].update(size=1), "no application"),
        (lambda c: c["golden"].update(c["artifacts"][0]["blob"]), "no application"),
        (lambda c: c["inputs"][0].update(dtype="object"), "dtype"),
        (lambda c: c["inputs"][0].update(shape=[-1, 0]), "shape"),
        (lambda c: c.update(artifacts=[]), "without artifacts"),
        (lambda c: c.update(schema=2), "card"),
    ],
)
def test_a_card_that_contradicts_its_manifest_is_refused(
    tmp_path: Path, change: Any, says: str
) -> None:
    blobs, manifest = _forge(Bundle.open(make_bundle(tmp_path / "b")), change)
    with pytest.raises(BundleError, match=says):
        Bundle.of(blobs, manifest)


def _manifest(tmp_path: Path) -> dict[str, Any]:
    return json.loads(Bundle.open(make_bundle(tmp_path / "b")).manifest_bytes)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(mediaType="application/json"), "expected"),
        (lambda m: m.update(artifactType="application/vnd.other"), "expected"),
        (lambda m: m["layers"][0].update(mediaType="application/x-sh"), "unknown media type"),
        (lambda m: m["layers"][0].update(size=1 << 60), "limit"),
        (lambda m: m["layers"][0].update(size=-1), "negative"),
        (lambda m: m["layers"][0].update(digest="md5:00"), "not a digest"),
        (lambda m: m["layers"].append(m["layers"][0]), "two layers"),
        (lambda m: m["layers"][0].update(annotations={}), "file name"),
        (
            lambda m: m["layers"][0]["annotations"].update({"org.cncf.model.filepath": "../x"}),
            "fil",
        ),
        (lambda m: m.update(layers=m["layers"] * 100), "layers"),
        (lambda m: m.update(layers=[]), "0 layers"),
        (lambda m: m["annotations"].update(x="y" * (1 << 20)), "more than"),
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    manifest = _manifest(tmp_path)
    manifest.setdefault("annotations", {})
    change(manifest)
    with pytest.raises(BundleError, match=says):
        parse_manifest(json.dumps(manifest).encode())


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(msgspec.json.encode)
)
def test_noise_is_refused_with_a_typed_error(data: bytes) -> None:
    for parse in (parse_manifest, lambda d: parse_index(d, Limits()), Card.decode):
        with pytest.raises(SkerryError):
            parse(data)


@pytest.mark.parametrize("data", [b'{"model":"\xff"}', b'{"mediaType":"\xff"}', b"[" * 5000])
def test_text_that_is_no_utf8_or_is_nested_without_end_is_refused(data: bytes) -> None:
    for parse in (parse_manifest, lambda d: parse_index(d, Limits()), Card.decode):
        with pytest.raises(BundleError):
            parse(data)
    with pytest.raises(BundleError):
        parse_manifest(b'{"unknown":' + b"[" * 5000)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path)


def test_golden_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "b"))
    path = bundle.path(bundle.card.golden)
    junk = b"\xff" * path.stat().st_size
    blob = Descriptor(Digest.of(junk), len(junk))
    bundle.blobs.put(blob, [junk])
    golden = BlobRef(str(blob.digest), blob.size)
    bundle.card = msgspec.structs.replace(bundle.card, golden=golden)
    with pytest.raises(BundleError, match="safetensors"):
        bundle.golden()


@pytest.mark.service("skopeo")
def test_skopeo_copies_it_whole(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b")
    target = f"oci:{tmp_path}/copy:1"
    command = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{folder}:1", target]
    subprocess.run(command, check=True)
    assert Bundle.open(tmp_path / "copy").manifest == Bundle.open(folder).manifest
    Bundle.open(tmp_path / "copy").verify()


UNREADABLE = Path("/proc/self/mem")  # a file that opens, and whose first byte no read gets


@pytest.mark.skipif(not UNREADABLE.exists(), reason="no such file here")
@pytest.mark.parametrize("which", ["index", "artifact"])
def test_what_the_disk_does_not_give_is_unavailable(tmp_path: Path, which: str) -> None:
    folder = make_bundle(tmp_path / "b")
    bundle = Bundle.open(folder)
    path = folder / "index.json"
    if which == "artifact":
        path = bundle.path(bundle.card.artifacts[0].blob)
    path.unlink()
    path.symlink_to(UNREADABLE)
    with pytest.raises(UnavailableError, match="cannot read: Input/output error") as caught:
        Bundle.open(folder).verify()
    assert path.name in str(caught.value.where)


def test_a_folder_name_that_no_disk_has_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="name too long"):
        Bundle.open(tmp_path / ("long" * 1000))
    with pytest.raises(UnavailableError, match="name too long"):
        FolderBlobs(tmp_path / ("long" * 1000)).open(Digest.of(b""))
