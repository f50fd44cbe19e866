"""Publishing over HTTP: blobs first, then the metadata that names them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import UnavailableError
from skerry.devices.files import write_atomically
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.fetch import HttpFetcher
from skerry.updater.repository.offline import OfflineRepository
from skerry.updater.repository.releases import Release

__all__ = ["Published", "publish"]


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication did.

    Attributes:
        releases: the releases that the server took as new, as it named them.
        blobs, sent_bytes: how many blobs were uploaded, and their bytes.
    """

    releases: tuple[dict[str, Any], ...]
    blobs: int
    sent_bytes: int


class _Answer(msgspec.Struct, frozen=True):
    releases: list[dict[str, Any]]


def publish(
    repository: OfflineRepository,
    server: str,
    http: HttpFetcher,
    *,
    everything: bool = False,
    tell: Callable[[int, str], None] | None = None,
) -> Published:
    """Upload the blobs of releases not yet published to `server`, then the metadata.

    Args:
        repository: the operator's repository.
        server: the server's base address.
        http: carries the operator's token.
        everything: upload the blobs of every release again.
        tell: called with the bytes sent and the blob's short name.

    Raises:
        RefusedError: the server refused a file or the metadata; its answer says why.
        BusyError, UnavailableError: it cannot be reached, or answered something else.
    """
    base = server.rstrip("/")
    record = repository.folder / "published.json"
    done = _published(record)
    known = set() if everything else set(done.get(base, []))
    sent: dict[Digest, int] = {}
    for release in repository.releases():
        if str(release.id) in known:
            continue
        for blob in _blobs(repository, release):
            if blob.digest not in sent:
                _send(repository, f"{base}/v1/blobs/sha256/{blob.digest.hex}", blob, http)
                sent[blob.digest] = blob.size
                if tell:
                    tell(blob.size, blob.digest.short)
    image, director = repository.files()
    body = msgspec.json.encode({"image": _base64(image), "director": _base64(director)})
    answer = http.send("POST", f"{base}/v1/releases", body, content_type="application/json")
    try:
        taken = msgspec.json.decode(answer, type=_Answer).releases
    except msgspec.DecodeError as error:
        raise UnavailableError(
            "the server did not answer as a skerry server does", where=base
        ) from error
    done[base] = [str(release.id) for release in repository.releases()]
    write_atomically(record, msgspec.json.encode(done, order="sorted"))
    return Published(tuple(taken), len(sent), sum(sent.values()))


def _blobs(repository: OfflineRepository, release: Release) -> tuple[Descriptor, ...]:
    bundle = Bundle.of(repository.blobs, release.manifest)
    return (*bundle.descriptors(), release.manifest)


def _send(repository: OfflineRepository, url: str, blob: Descriptor, http: HttpFetcher) -> None:
    with repository.blobs.path(blob.digest).open("rb") as file:
        http.send("PUT", url, file, content_type="application/octet-stream")


def _base64(files: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in sorted(files.items())}


def _published(record: Path) -> dict[str, list[str]]:
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, list[str]])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
