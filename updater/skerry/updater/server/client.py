"""An operator's calls to a fleet server."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import quote, urlsplit

import msgspec

from skerry.devices.errors import InputError, UnavailableError
from skerry.updater.fetch import HttpFetcher, fetch_bytes

__all__ = ["FleetClient"]

_ANSWER_BYTES = 64 << 20


class FleetClient:
    """Speaks to one server with one operator's token.

    Args:
        url: the server's base URL.
        token: the operator's.
    """

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is not a server's address", remedy="http://HOST:PORT")
        self._url = url.rstrip("/")
        self._http = HttpFetcher(authorize=lambda: f"Bearer {token}")

    def get(self, path: str) -> dict[str, Any]:
        """What `GET {path}` answers; errors as `HttpFetcher.open`."""
        return self._parsed(fetch_bytes(self._http, self._url + path, _ANSWER_BYTES))

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        """What `POST {path}` answers; errors as `HttpFetcher.send`."""
        data = msgspec.json.encode({} if body is None else body)
        answer = self._http.send(
            "POST",
            self._url + path,
            data,
            content_type="application/json",
            max_bytes=_ANSWER_BYTES,
        )
        return self._parsed(answer)

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
