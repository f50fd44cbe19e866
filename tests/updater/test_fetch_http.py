"""What the real network does to a request, and how little of it a device has to bear."""

import gzip
import ipaddress
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fakes.clock import FakeClock
from fakes.site import Site, serving
from skerry.devices.errors import InputError, TrustError
from skerry.updater.fetch import (
    BusyError,
    FetchLimits,
    HttpFetcher,
    RefusedError,
    fetch_bytes,
    plainly,
)

LOOPBACK = ipaddress.ip_address("127.0.0.1")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        yield found


@pytest.fixture
def http() -> Iterator[HttpFetcher]:
    fetcher = HttpFetcher(limits=FetchLimits(connect_s=2, read_s=0.3, chunk_bytes=500))
    yield fetcher
    fetcher.close()


def test_an_endless_body_is_left_after_what_was_agreed(site: Site, http: HttpFetcher) -> None:
    sent = 0

    def endless(handler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(b"x" * 1_000)
                sent += 1_000
        except OSError:
            return

    site.special["/endless"] = endless
    with pytest.raises(TrustError, match="endless data"):
        fetch_bytes(http, site.url + "/endless", 5_000)


def test_a_stall_is_given_up(site: Site, http: HttpFetcher) -> None:
    def stall(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"x" * 10)
        handler.wfile.flush()
        site.released.wait(5)
        handler.close_connection = True

    site.special["/stall"] = stall
    with pytest.raises(BusyError, match="broke off after 10 bytes"):
        fetch_bytes(http, site.url + "/stall", 100)


def test_a_trickle_is_given_up(site: Site) -> None:
    class Hurried(FakeClock):
        def monotonic(self) -> float:
            self.advance(5)
            return super().monotonic()

    site.pages["/a"] = b"x" * 2_000
    http = HttpFetcher(limits=FetchLimits(chunk_bytes=10), clock=Hurried())
    with pytest.raises(BusyError, match=r"only \d+ bytes in \d+ s"):
        fetch_bytes(http, site.url + "/a", 2_000)


def test_another_range_than_asked_for_is_not_taken(site: Site, http: HttpFetcher) -> None:
    def wrong(handler) -> None:
        handler.answer(206, {"Content-Range": "bytes 0-9/10"}, b"0123456789")

    site.special["/a"] = wrong
    with (
        pytest.raises(BusyError, match="another range"),
        http.open(site.url + "/a", max_bytes=10, start=4),
    ):
        pass


def test_a_server_without_ranges_starts_over(site: Site, http: HttpFetcher) -> None:
    site.special["/a"] = lambda handler: handler.answer(200, {}, b"0123456789")  # type: ignore[attr-defined]
    with http.open(site.url + "/a", max_bytes=10, start=4) as body:
        assert body.start == 0
        assert b"".join(body) == b"0123456789"


def test_a_redirect_is_followed_within_the_origin_alone(site: Site, http: HttpFetcher) -> None:
    site.pages["/new"] = b"here"
    site.special["/old"] = lambda handler: handler.answer(302, {"Location": "/new"}, b"")  # type: ignore[attr-defined]
    assert fetch_bytes(http, site.url + "/old", 10) == b"here"
    elsewhere = {"Location": "http://127.0.0.2:9/secret"}
    site.special["/away"] = lambda handler: handler.answer(302, elsewhere, b"")  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match=r"127\.0\.0\.2"):
        fetch_bytes(http, site.url + "/away", 10)
    site.special["/loop"] = lambda handler: handler.answer(302, {"Location": "/loop"}, b"")  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match="too many redirects"):
        fetch_bytes(http, site.url + "/loop", 10)


def test_the_token_is_asked_for_each_request(site: Site) -> None:
    tokens = iter(["Bearer one", "Bearer two"])
    http = HttpFetcher(authorize=lambda: next(tokens))
    site.pages["/a"] = b"x"
    fetch_bytes(http, site.url + "/a", 1)
    fetch_bytes(http, site.url + "/a", 1)
    assert [words["Authorization"] for _, _, words in site.requests] == ["Bearer one", "Bearer two"]


def test_nobody_listening_is_busy(http: HttpFetcher) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BusyError, match="cannot be reached"):
        fetch_bytes(http, f"http://127.0.0.1:{port}/a", 1)


@pytest.mark.parametrize("url", ["http://", "ftp://a/b", "http://[::1"])
def test_what_is_no_address_is_said_to_be_none(http: HttpFetcher, url: str) -> None:
    with pytest.raises(InputError):
        fetch_bytes(http, url, 1)


def test_the_reason_a_server_gives_reaches_the_reader(site: Site, http: HttpFetcher) -> None:
    site.special["/a"] = lambda handler: handler.answer(403, {}, b"this device is revoked")  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match="this device is revoked"):
        fetch_bytes(http, site.url + "/a", 10)
    told = b'{"error": "no such claim", "where": "token"}'
    site.special["/b"] = lambda handler: handler.answer(403, {}, told)  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match="answered 403: no such claim;"):
        fetch_bytes(http, site.url + "/b", 10)


def test_what_a_server_says_is_told_as_the_error_that_it_was_there(
    site: Site, http: HttpFetcher
) -> None:
    said = {"problem": "no \x1b[31m" + "x" * 900, "exit_code": 4, "where": "to\nken"}
    said |= {"error": "token: no; ask", "remedy": "ask the operator"}
    told = msgspec.json.encode(said)
    for path, status in (("/a", 403), ("/b", 503)):
        site.special[path] = lambda handler, s=status: handler.answer(s, {}, told)  # type: ignore[misc]
    with pytest.raises(RefusedError) as refused:
        fetch_bytes(http, site.url + "/a", 10)
    assert str(refused.value).count("ask the operator") == 1
    assert refused.value.remedy == "ask the operator"
    with pytest.raises(BusyError):
        fetch_bytes(http, site.url + "/b", 10)
    for path in ("/a", "/b"):
        with pytest.raises(TrustError) as caught, plainly():
            fetch_bytes(http, site.url + path, 10)
        error = caught.value
        assert (error.where, error.remedy, error.exit_code) == ("to ken", "ask the operator", 4)
        assert len(error.problem) == 500 and error.problem.isprintable()


@pytest.mark.parametrize(
    "told",
    [b"", b"[" * 4000, b'{"problem": 1, "exit_code": 4}', b'{"problem": "", "exit_code": 4}'],
)
def test_an_answer_of_another_form_stays_what_its_status_says(
    site: Site, http: HttpFetcher, told: bytes
) -> None:
    site.special["/a"] = lambda handler: handler.answer(401, {}, told)  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match="clock"), plainly():
        fetch_bytes(http, site.url + "/a", 10)


def test_a_file_is_sent_from_the_disk(site: Site, http: HttpFetcher, tmp_path: Path) -> None:
    taken: dict[str, bytes] = {}

    def accept(method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        taken[f"{method} {path}"] = body
        return 201, {}, b"thanks"

    site.accept = accept
    path = tmp_path / "blob"
    path.write_bytes(b"y" * 100_000)
    with path.open("rb") as file:
        answer = http.send("PUT", site.url + "/b", file, content_type="application/octet-stream")
    assert answer == b"thanks"
    assert taken["PUT /b"] == path.read_bytes()
    assert http.send("POST", site.url + "/c", b"{}", content_type="application/json") == b"thanks"


def test_a_compressed_answer_is_not_blown_up(site: Site, http: HttpFetcher) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    site.special["/a"] = lambda handler: handler.answer(200, {"Content-Encoding": "gzip"}, bomb)  # type: ignore[attr-defined]
    assert fetch_bytes(http, site.url + "/a", len(bomb)) == bomb


@pytest.mark.parametrize("tail", [b"", b"5\r\nab", b"zz\r\n", b"-1\r\n"])
def test_a_chunked_answer_that_breaks_off_is_noticed(
    site: Site, http: HttpFetcher, tail: bytes
) -> None:
    def broken(handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"3\r\nabc\r\n" + tail)
        handler.close_connection = True

    site.special["/a"] = broken
    with pytest.raises(BusyError, match="broke off"):
        fetch_bytes(http, site.url + "/a", 100)


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"],
)
def test_nonsense_instead_of_http_is_busy(http: HttpFetcher, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(BusyError):
            fetch_bytes(http, f"http://127.0.0.1:{port}/a", 100)
        thread.join(5)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, `cert.pem` beside `key.pem`."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return folder / "cert.pem"


def test_only_the_named_authority_is_believed(authority: Path) -> None:
    with serving(authority) as site:
        site.pages["/a"] = b"hello"
        believed = HttpFetcher(ca_file=authority)
        assert fetch_bytes(believed, site.url + "/a", 5) == b"hello"
        believed.close()
        stranger = HttpFetcher()
        with pytest.raises(BusyError, match="certificate"):
            fetch_bytes(stranger, site.url + "/a", 5)
