"""`skerry fleet media`: what lies on a stick is what the server has, or it is not written."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fakes.site import Site, serving
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import DigestMismatch, UnavailableError
from skerry.devices.output import Output
from skerry.updater.repository import Medium
from skerry.updater.sealing import Parcel
from skerry.updater.server.carry import write_stick
from skerry.updater.server.client import FleetClient

DATA = {name: name.encode() * 1_000 for name in ("one", "two")}
PARCELS = tuple(Parcel(Descriptor(Digest.of(data), len(data))) for data in DATA.values())


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        medium = Medium({"image/1.root.json": b"{}"}, PARCELS)
        found.pages["/v1/media/dev"] = msgspec.json.encode(medium.document())
        for parcel, data in zip(PARCELS, DATA.values(), strict=True):
            found.pages[f"/v1/blobs/sha256/{parcel.name}"] = data
        yield found


def _write(site: Site, stick: Path) -> list[str]:
    """Write the stick; which blobs were fetched."""
    site.requests.clear()
    write_stick(FleetClient(site.url, "token"), ["dev"], stick, Output(as_json=True))
    return [path.rpartition("/")[2] for _, path, _ in site.requests[1:]]


def test_a_damaged_blob_on_a_stick_is_fetched_again(site: Site, tmp_path: Path) -> None:
    stick = tmp_path / "deep" / "stick"
    assert _write(site, stick) == [parcel.name for parcel in PARCELS]
    assert _write(site, stick) == []
    damaged = stick / "blobs" / "sha256" / PARCELS[0].name
    damaged.write_bytes(bytes(len(DATA["one"])))
    assert _write(site, stick) == [PARCELS[0].name]
    assert damaged.read_bytes() == DATA["one"]


def test_wrong_bytes_from_the_server_are_not_kept(site: Site, tmp_path: Path) -> None:
    site.pages[f"/v1/blobs/sha256/{PARCELS[1].name}"] = bytes(len(DATA["two"]))
    with pytest.raises(DigestMismatch):
        _write(site, tmp_path)
    assert [path.name for path in (tmp_path / "blobs" / "sha256").iterdir()] == [PARCELS[0].name]
    assert not (tmp_path / "image" / "1.root.json").exists()


def test_a_stick_that_cannot_be_made_is_said_to_be(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path / "file", tmp_path / "file" / "stick"):
        with pytest.raises(UnavailableError, match="cannot make the folder"):
            _write(site, out)
