from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from fakes.blobs import FakeBlobs
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import BundleError, DigestMismatch
from skerry.runtime.blobs import BlobStore, FolderBlobs
from skerry.updater.sealing import ContentKey, Parcel, SealedBlobs

DATA = b"one blob"
BLOB = Descriptor(Digest.of(DATA), len(DATA))


class _OneKey:
    key = ContentKey(bytes(range(32)))

    def content_key(self, key: str) -> ContentKey:
        assert key == self.key.id
        return self.key


class _Sealing(SealedBlobs):
    """Seals whatever it is given."""

    def put(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        self.put_as(Parcel(blob, _OneKey.key.id), chunks)


@pytest.fixture(params=["folder", "fake", "sealed", "sealing"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    made: dict[str, Callable[[], BlobStore]] = {
        "folder": lambda: FolderBlobs(tmp_path),
        "fake": FakeBlobs,
        "sealed": lambda: SealedBlobs(tmp_path, _OneKey()),
        "sealing": lambda: _Sealing(tmp_path, _OneKey()),
    }
    return made[request.param]()


def test_what_was_put_is_there(blobs: BlobStore) -> None:
    assert not blobs.has(BLOB.digest)
    blobs.put(BLOB, [DATA[:3], DATA[3:]])
    assert blobs.has(BLOB.digest)
    assert blobs.read(BLOB) == blobs.path(BLOB.digest).read_bytes() == DATA
    with blobs.open(BLOB.digest) as file:
        assert file.read(3) + file.read() == DATA
        file.seek(4)
        assert file.read() == DATA[4:]
    assert list(blobs.digests()) == [BLOB.digest]


@pytest.mark.parametrize("chunks", [[b"other!!!"], [DATA, b"more"], [DATA[:-1]]])
def test_other_content_is_refused_and_not_kept(blobs: BlobStore, chunks: list[bytes]) -> None:
    with pytest.raises(DigestMismatch):
        blobs.put(BLOB, chunks)
    assert not blobs.has(BLOB.digest)
    assert list(blobs.digests()) == []


def test_a_wrong_size_is_refused(blobs: BlobStore) -> None:
    blobs.put(BLOB, [DATA])
    with pytest.raises(DigestMismatch):
        blobs.read(Descriptor(BLOB.digest, BLOB.size + 1))


def test_what_is_missing_is_named(blobs: BlobStore) -> None:
    with pytest.raises(BundleError, match=BLOB.digest.hex):
        blobs.read(BLOB)
    with pytest.raises(BundleError):
        blobs.path(BLOB.digest)
    blobs.remove(BLOB.digest)


def test_what_was_removed_is_gone(blobs: BlobStore) -> None:
    blobs.put(BLOB, [DATA])
    blobs.remove(BLOB.digest)
    assert not blobs.has(BLOB.digest)


def test_a_blob_that_rotted_on_disk_is_refused(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    blobs.put(BLOB, [DATA])
    blobs.path(BLOB.digest).write_bytes(DATA.upper())
    with pytest.raises(DigestMismatch):
        blobs.read(BLOB)
