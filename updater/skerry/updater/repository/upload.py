"""Publishing over HTTP: blobs first, then the metadata that names them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from skerry.devices.errors import UnavailableError
from skerry.devices.files import write_atomically
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.fetch import HttpFetcher
from skerry.updater.repository.content import for_server
from skerry.updater.repository.offline import OfflineRepository
from skerry.updater.repository.signing import newest_root
from skerry.updater.sealing import Parcel, parcels

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

    A sealed release goes sealed, and its content key wrapped for the server that the root names.

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
    sent: dict[str, int] = {}
    for release in repository.releases():
        if str(release.id) in known:
            continue
        if release.key:
            _send_key(repository, base, release.key, http)
        for parcel in parcels(Bundle.of(repository.blobs, release.manifest), release.key):
            if parcel.name not in sent:
                _send(repository, f"{base}/v1/blobs/sha256/{parcel.name}", parcel, http)
                sent[parcel.name] = parcel.size
                if tell:
                    tell(parcel.size, parcel.blob.digest.short)
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


def _send_key(repository: OfflineRepository, base: str, key: str, http: HttpFetcher) -> None:
    envelope = for_server(repository.content.content_key(key), newest_root(repository.image))
    body = envelope.encode()
    http.send("PUT", f"{base}/v1/keys/{key}", body, content_type="application/json")


def _send(repository: OfflineRepository, url: str, parcel: Parcel, http: HttpFetcher) -> None:
    with repository.blobs.file(parcel).open("rb") as file:
        http.send("PUT", url, file, content_type="application/octet-stream")


def _base64(files: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in sorted(files.items())}


def _published(record: Path) -> dict[str, list[str]]:
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, list[str]])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
