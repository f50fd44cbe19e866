"""What every `Fetcher` does, the one in memory and the one on a real network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fakes.fetcher import FakeFetcher
from fakes.site import serving
from skerry.devices.errors import TrustError, UnavailableError
from skerry.updater.fetch import (
    BusyError,
    Fetcher,
    FetchLimits,
    HttpFetcher,
    RefusedError,
    fetch_bytes,
)

PAGE = bytes(range(256)) * 20


@dataclass
class Network:
    fetcher: Fetcher
    url: Callable[[str], str]
    put: Callable[[str, bytes], None]
    status: Callable[[str, int, float | None], None]
    cut: Callable[[str, int], None]


def _fake() -> Iterator[Network]:
    fake = FakeFetcher()

    def url(path: str) -> str:
        return f"http://site{path}"

    yield Network(
        fake,
        url,
        lambda path, data: fake.put(url(path), data),
        lambda path, status, wait: fake.status(url(path), status, wait),
        lambda path, after: fake.cut(url(path), after),
    )


def _real() -> Iterator[Network]:
    with serving() as site:
        fetcher = HttpFetcher(limits=FetchLimits(connect_s=5, read_s=5, chunk_bytes=1_000))

        def status(path: str, code: int, wait: float | None) -> None:
            words = {} if wait is None else {"Retry-After": f"{wait:.0f}"}
            site.special[path] = lambda handler: handler.answer(code, words, b"because")  # type: ignore[attr-defined]

        def cut(path: str, after: int) -> None:
            def answer(handler: object) -> None:
                del site.special[path]
                handler.send_response(200)  # type: ignore[attr-defined]
                handler.send_header("Content-Length", str(len(site.pages[path])))  # type: ignore[attr-defined]
                handler.end_headers()  # type: ignore[attr-defined]
                handler.wfile.write(site.pages[path][:after])  # type: ignore[attr-defined]
                handler.close_connection = True  # type: ignore[attr-defined]

            site.special[path] = answer

        yield Network(
            fetcher,
            lambda path: site.url + path,
            lambda path, data: site.pages.__setitem__(path, data),
            status,
            cut,
        )
        fetcher.close()


@pytest.fixture(params=["fake", "real"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    yield from {"fake": _fake, "real": _real}[request.param]()


def test_a_page_comes_whole(network: Network) -> None:
    network.put("/a", PAGE)
    network.put("/empty", b"")
    assert fetch_bytes(network.fetcher, network.url("/a"), len(PAGE)) == PAGE
    assert fetch_bytes(network.fetcher, network.url("/empty"), 0) == b""


def test_the_rest_of_a_page_comes_alone(network: Network) -> None:
    network.put("/a", PAGE)
    with network.fetcher.open(network.url("/a"), max_bytes=len(PAGE), start=1_500) as body:
        assert body.start == 1_500
        assert b"".join(body) == PAGE[1_500:]


def test_a_range_beyond_the_end_is_final(network: Network) -> None:
    network.put("/a", PAGE)
    asked = network.fetcher.open(network.url("/a"), max_bytes=10**6, start=len(PAGE))
    with pytest.raises(RefusedError) as caught, asked:
        pass
    assert caught.value.status == 416


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_what_the_server_refuses_is_final(network: Network, status: int) -> None:
    network.status("/a", status, None)
    with pytest.raises(RefusedError, match=str(status)) as caught:
        fetch_bytes(network.fetcher, network.url("/a"), 10)
    assert caught.value.status == status
    assert not isinstance(caught.value, UnavailableError)


@pytest.mark.parametrize(("status", "wait"), [(408, None), (429, 7.0), (500, None), (503, 30.0)])
def test_what_time_may_heal_says_so(network: Network, status: int, wait: float | None) -> None:
    network.status("/a", status, wait)
    with pytest.raises(BusyError, match=str(status)) as caught:
        fetch_bytes(network.fetcher, network.url("/a"), 10)
    assert caught.value.retry_after == wait


def test_a_missing_page_is_refused(network: Network) -> None:
    with pytest.raises(RefusedError) as caught:
        fetch_bytes(network.fetcher, network.url("/nothing"), 10)
    assert caught.value.status == 404


def test_more_than_was_agreed_is_refused(network: Network) -> None:
    network.put("/a", PAGE)
    with pytest.raises(TrustError, match="endless"):
        fetch_bytes(network.fetcher, network.url("/a"), len(PAGE) - 1)
    with (
        pytest.raises(TrustError, match="endless"),
        network.fetcher.open(network.url("/a"), max_bytes=len(PAGE) - 1, start=1_000) as body,
    ):
        b"".join(body)


def test_a_cut_is_noticed_and_can_be_resumed(network: Network) -> None:
    network.put("/a", PAGE)
    network.cut("/a", 2_300)
    got = bytearray()
    asked = network.fetcher.open(network.url("/a"), max_bytes=len(PAGE))
    with pytest.raises(BusyError, match="broke off"), asked as body:
        for chunk in body:
            got += chunk
    assert 0 < len(got) <= 2_300
    with network.fetcher.open(network.url("/a"), max_bytes=len(PAGE), start=len(got)) as body:
        got += b"".join(body)
    assert bytes(got) == PAGE
