"""Fetching sealed blobs as if they were plain: opened on the device, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skerry.devices.digest import Descriptor
from skerry.devices.errors import TrustError
from skerry.updater.fetch import Body, BusyError, Fetcher
from skerry.updater.trust.sealing.form import (
    ContentKey,
    SealLimits,
    sealed_range,
    sealed_size,
    unseal,
)

__all__ = ["SealedFetcher"]


class SealedFetcher:
    """`Fetcher` that asks for the sealed form of what `sealed_at` knows, and hands out plain bytes.

    A download goes on after the last whole chunk: the part of it that is here already is left out.

    Args:
        fetcher: the way to the server.
        key: the content key.
        sealed_at: for the address of a plain blob, the address of its sealed form and the plain
            blob's digest and length; None for anything else, which is fetched as it is.
        limits: the length of chunks, as on the server.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        key: ContentKey,
        sealed_at: Callable[[str], tuple[str, Descriptor] | None],
        limits: SealLimits | None = None,
    ) -> None:
        self._fetcher, self._key, self._sealed_at = fetcher, key, sealed_at
        self._limits = limits or SealLimits()

    @contextmanager
    def open(self, url: str, *, max_bytes: int, start: int = 0) -> Iterator[Body]:
        found = self._sealed_at(url)
        if found is None:
            with self._fetcher.open(url, max_bytes=max_bytes, start=start) as body:
                yield body
            return
        sealed_url, blob = found
        if blob.size > max_bytes:
            raise TrustError(f"is longer than the {max_bytes} bytes expected", where=url)
        at, sealed_at = sealed_range(start, self._limits)
        if at == 0:
            sealed_at = 0  # the header is needed as well
        most = sealed_size(blob.size, self._limits)
        with self._fetcher.open(sealed_url, max_bytes=most, start=sealed_at) as body:
            if body.start not in {0, sealed_at}:
                raise BusyError("the server answered with another range", where=sealed_url)
            at = at if body.start else 0
            chunk = at // self._limits.chunk_bytes
            plain = unseal(body, blob, self._key, from_chunk=chunk, limits=self._limits)
            yield _Opened(plain, start, start - at)


class _Opened:
    """Plain bytes, less those that are here already."""

    def __init__(self, plain: Iterator[bytes], start: int, skip: int) -> None:
        self.start = start
        self._plain, self._skip = plain, skip

    def __iter__(self) -> Iterator[bytes]:
        skip = self._skip
        for chunk in self._plain:
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            if chunk:
                yield chunk
