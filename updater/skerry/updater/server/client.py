"""An operator's calls to a fleet server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import msgspec

from skerry.devices.errors import DigestMismatch, InputError, UnavailableError
from skerry.devices.files import replacing
from skerry.updater.fetch import HttpFetcher, fetch_bytes, plainly
from skerry.updater.sealing import Parcel

__all__ = ["FleetClient"]

_ANSWER_BYTES = 64 << 20


class FleetClient:
    """Speaks to one server with one operator's token.

    Args:
        url: the server's base URL.
        token: the operator's.
        ca: PEM of the authority that the server is verified by; "" for the system's.
    """

    def __init__(self, url: str, token: str, ca: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is not a server's address", remedy="http://HOST:PORT")
        self._url = url.rstrip("/")
        self._http = HttpFetcher(authorize=lambda: f"Bearer {token}", ca=ca)

    def get(self, path: str) -> dict[str, Any]:
        """What `GET {path}` answers; errors as `HttpFetcher.open`, told `plainly`."""
        with plainly():
            return self._parsed(fetch_bytes(self._http, self._url + path, _ANSWER_BYTES))

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        """What `POST {path}` answers; errors as `HttpFetcher.send`, told `plainly`."""
        data = msgspec.json.encode({} if body is None else body)
        url = self._url + path
        with plainly():
            return self._parsed(
                self._http.send(
                    "POST", url, data, content_type="application/json", max_bytes=_ANSWER_BYTES
                )
            )

    def save(self, path: str, file: Path, parcel: Parcel) -> None:
        """Write the blob that `GET {path}` answers to `file`, in a folder that is there.

        What a sealed one holds is a device's to judge: it is not opened here.

        Raises:
            UnavailableError: it is shorter than it must be, or cannot be written.
            DigestMismatch: a plain one is not what it must be; nothing is kept.
            Others as `get`.
        """
        url = self._url + path
        with (
            plainly(),
            self._http.open(url, max_bytes=parcel.size) as body,
            replacing(file) as out,
        ):
            size, state = 0, hashlib.sha256()
            for chunk in body:
                size += out.write(chunk)
                state.update(chunk)
            if size != parcel.size:
                raise UnavailableError(f"ended after {size} of {parcel.size} bytes", where=url)
            if not parcel.key and state.hexdigest() != parcel.blob.digest.hex:
                raise DigestMismatch(
                    f"is not the blob {parcel.blob.digest.short}…",
                    where=url,
                    remedy="try again; if it stays so, publish it anew with --everything",
                )

    def rollout(
        self, rollout_id: str, verb: Literal["", "start", "pause", "resume", "abort"] = ""
    ) -> dict[str, Any]:
        """One rollout, or what became of it by `verb`."""
        path = f"/v1/rollouts/{quote(rollout_id, safe='')}"
        return self.post(f"{path}/{verb}") if verb else self.get(path)

    def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError("what answers is no fleet server", where=self._url) from error
