"""`skerry fleet media`: a stick for devices without a network, from a server that runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from skerry.devices.output import Output, human_bytes
from skerry.updater.repository import Medium
from skerry.updater.server.client import FleetClient

__all__ = ["write_stick"]


def write_stick(client: FleetClient, devices: Sequence[str], folder: Path, output: Output) -> int:
    """Write what `devices` are assigned now to `folder`; blobs that are there and whole stay.

    Raises:
        SkerryError: as `FleetClient.get` and `save`, and where the folder cannot be written.
    """
    blobs = sent = 0
    with output.progress("writing the medium") as progress:
        for device in devices:
            medium = Medium.parse(client.get(f"/v1/media/{quote(device, safe='')}"))
            medium.make_folders(folder)
            for parcel in medium.missing(folder):
                place = medium.place(folder, parcel)
                client.save(f"/v1/blobs/sha256/{parcel.name}", place, parcel)
                blobs, sent = blobs + 1, sent + parcel.size
                progress.advance(parcel.size, parcel.blob.digest.short)
            medium.write(folder)
    document = {"out": str(folder), "devices": list(devices), "blobs": blobs, "bytes": sent}
    text = f"wrote {folder} for {', '.join(devices)}: {blobs} blobs, {human_bytes(sent)}"
    output.result(document, f"{text}\nnext: skerry agent update --home DIR --media {folder}")
    return 0
