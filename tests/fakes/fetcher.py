"""A network in memory: addresses to bytes, and whatever can go wrong on the way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skerry.updater.fetch import BusyError, error_for_status, too_long

_CHUNK_BYTES = 1_000


class FakeBody:
    def __init__(self, url: str, data: bytes, start: int, max_bytes: int, cut: int | None) -> None:
        self.start = start
        self._url, self._data, self._max, self._cut = url, data, max_bytes, cut

    def __iter__(self) -> Iterator[bytes]:
        taken = 0
        for at in range(self.start, len(self._data), _CHUNK_BYTES):
            chunk = self._data[at : at + _CHUNK_BYTES]
            if self._cut is not None and taken + len(chunk) > self._cut:
                if chunk := chunk[: self._cut - taken]:
                    yield chunk
                raise BusyError(f"the answer broke off after {self._cut} bytes", where=self._url)
            taken += len(chunk)
            if self.start + taken > self._max:
                raise too_long(self._url, self._max)
            yield chunk


class FakeFetcher:
    """`Fetcher` over a mapping.

    Attributes:
        pages: address to bytes, or to a function that gives the bytes or None.
        ranges: whether a range is honoured.
        requests: every (url, start) asked for, in order.
    """

    def __init__(self, pages: dict[str, bytes] | None = None) -> None:
        self.pages: dict[str, bytes] = dict(pages or {})
        self.ranges = True
        self.requests: list[tuple[str, int]] = []
        self._prefixes: dict[str, Callable[[str], bytes | None]] = {}
        self._failures: list[Exception] = []
        self._statuses: dict[str, tuple[int, float | None]] = {}
        self._cuts: dict[str, int] = {}

    def put(self, url: str, data: bytes) -> None:
        self.pages[url] = data

    def serve(self, prefix: str, answer: Callable[[str], bytes | None]) -> None:
        """Answer every address below `prefix` with `answer(rest)`; None is a 404. The last wins."""
        self._prefixes.pop(prefix, None)
        self._prefixes[prefix] = answer

    def status(self, url: str, status: int, retry_after: float | None = None) -> None:
        """Answer `url` with an HTTP status."""
        self._statuses[url] = (status, retry_after)

    def cut(self, url: str, after: int) -> None:
        """Break the next answer of `url` off after so many bytes."""
        self._cuts[url] = after

    def fail_next(self, error: Exception) -> None:
        """Raise `error` at the next request."""
        self._failures.append(error)

    @contextmanager
    def open(self, url: str, *, max_bytes: int, start: int = 0) -> Iterator[FakeBody]:
        self.requests.append((url, start))
        if self._failures:
            raise self._failures.pop(0)
        if url in self._statuses:
            status, retry_after = self._statuses[url]
            raise error_for_status(status, where=url, retry_after=retry_after)
        data = self._find(url)
        if data is None:
            raise error_for_status(404, where=url)
        if start and start >= len(data) and self.ranges:
            raise error_for_status(416, where=url)
        if len(data) > max_bytes:
            raise too_long(url, max_bytes)
        yield FakeBody(url, data, start if self.ranges else 0, max_bytes, self._cuts.pop(url, None))

    def _find(self, url: str) -> bytes | None:
        if url in self.pages:
            return self.pages[url]
        for prefix, answer in reversed(self._prefixes.items()):
            if url.startswith(prefix):
                return answer(url.removeprefix(prefix))
        return None
