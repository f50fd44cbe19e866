"""Where a server may listen and who may ask, over REST and gRPC, with real TLS."""

import http.client
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from fakes.bundles import make_bundle
from fakes.certificates import Authority
from skerry.devices.errors import InputError
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.listen import Access, Address
from skerry.runtime.serve.rpc import open_inference_pb2 as pb
from skerry.runtime.serve.rpc.service import SERVICE
from skerry.runtime.serve.server import Server

TOKEN = "a token of some length"
EVERYWHERE = "0.0.0.0"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime.open(make_bundle(tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("server")


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


class Caller:
    """Asks a server for its metadata over both protocols, by TLS."""

    def __init__(
        self, server: Server, authority: Authority, own: tuple[Path, Path] | None = None
    ) -> None:
        self._port, self._own, self._authority = _port(server.address), own, authority
        parts = (None, None) if own is None else (own[1].read_bytes(), own[0].read_bytes())
        credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *parts)
        target = f"localhost:{_port(server.rpc_address)}"
        self.channel = grpc.secure_channel(target, credentials)

    def rest(self, path: str, token: str | None) -> int:
        context = ssl.create_default_context(cafile=str(self._authority.certificate))
        if self._own is not None:
            context.load_cert_chain(*self._own)
        connection = http.client.HTTPSConnection(
            "localhost", self._port, context=context, timeout=20
        )
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        connection.request("GET", path, headers=headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def rpc(self, method: str, token: str | None) -> str:
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        try:
            self.channel.unary_unary(f"/{SERVICE}/{method}")(b"", timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


@pytest.fixture
def callers() -> Iterator[list[Caller]]:
    found: list[Caller] = []
    yield found
    for caller in found:
        caller.channel.close()


def test_it_does_not_listen_beyond_this_machine_without(
    runtime: Runtime, authority: Authority, pair: tuple[Path, Path]
) -> None:
    certificate, key = pair
    plain = Access(certificate=certificate, key=key)
    for access in (None, Access(token=TOKEN), plain):
        with pytest.raises(InputError, match="needs TLS, and a token or the clients' CA"):
            Server(runtime, host=EVERYWHERE, access=access)
        with pytest.raises(InputError, match="needs TLS, and a token or the clients' CA"):
            Server(runtime, rpc=Address(EVERYWHERE), access=access)
    with Server(runtime, access=plain) as server:
        assert server.address.startswith("https://127.0.0.1:")


def test_with_tls_and_a_token_it_does(
    runtime: Runtime, authority: Authority, pair: tuple[Path, Path], callers: list[Caller]
) -> None:
    access = Access(token=TOKEN, certificate=pair[0], key=pair[1])
    with Server(runtime, host=EVERYWHERE, rpc=Address(EVERYWHERE), access=access) as server:
        caller = Caller(server, authority)
        callers.append(caller)
        for token, status, code in (
            (None, 401, "UNAUTHENTICATED"),
            ("another token", 401, "UNAUTHENTICATED"),
            (TOKEN, 200, "OK"),
        ):
            assert caller.rest("/v2", token) == status
            assert caller.rpc("ServerMetadata", token) == code
        assert caller.rest("/v2/health/live", None) == 200
        assert caller.rpc("ServerLive", None) == "OK"
        target = f"localhost:{_port(server.rpc_address)}"
        with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/{SERVICE}/ServerLive")(b"", timeout=20)


def test_with_mutual_tls_it_needs_no_token(
    runtime: Runtime,
    authority: Authority,
    pair: tuple[Path, Path],
    callers: list[Caller],
    tmp_path: Path,
) -> None:
    access = Access(certificate=pair[0], key=pair[1], clients_ca=authority.certificate)
    stranger = Authority(tmp_path, "stranger")
    with Server(runtime, host=EVERYWHERE, rpc=Address(EVERYWHERE), access=access) as server:
        known = Caller(server, authority, authority.issue("client"))
        nobody = Caller(server, authority)
        forged = Caller(server, authority, stranger.issue("client"))
        callers += [known, nobody, forged]
        assert known.rest("/v2", None) == 200
        assert known.rpc("ServerMetadata", None) == "OK"
        for other in (nobody, forged):
            with pytest.raises(OSError):
                other.rest("/v2", None)
            assert other.rpc("ServerMetadata", None) == "UNAVAILABLE"


def test_what_is_no_token_or_certificate_is_refused(
    runtime: Runtime, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="token"):
        Access(token="short")
    with pytest.raises(InputError, match="go together"):
        Access(token=TOKEN, certificate=pair[0])
    with pytest.raises(InputError, match="server's own"):
        Access(clients_ca=pair[0])
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    missing = tmp_path / "missing.pem"
    for access in (
        Access(certificate=pair[0], key=missing),
        Access(certificate=missing, key=pair[1]),
        Access(certificate=pair[0], key=pair[1], clients_ca=missing),
    ):
        with pytest.raises(InputError, match="No such file") as caught:
            access.context()
        assert caught.value.where == str(missing)
    with pytest.raises(InputError, match="no certificate") as caught:
        Access(certificate=pair[0], key=pair[1], clients_ca=bad).context()
    assert caught.value.where == str(bad)
    for rpc in (None, Address()):
        with pytest.raises(InputError, match=r"bad\.pem"):
            Server(runtime, rpc=rpc, access=Access(token=TOKEN, certificate=bad, key=pair[1]))


def test_addresses_are_read_and_written() -> None:
    for text, expected in (
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        (":80", Address("127.0.0.1", 80)),
        ("[::1]:0", Address("::1", 0)),
        ("unix:/run/s", Address(uds=Path("/run/s"))),
    ):
        assert Address.parse(text, "--grpc") == expected
    assert str(Address("::1", 80)) == "[::1]:80"
    assert str(Address(uds=Path("/run/s"))) == "unix:/run/s"
    for text in ("80", "host:", "host:x", "host:65536", "host:٣", "unix:"):
        with pytest.raises(InputError, match="--grpc"):
            Address.parse(text, "--grpc")


def test_a_reply_names_no_secret(runtime: Runtime) -> None:
    with Server(runtime, access=Access(token=TOKEN), rpc=Address()) as server:
        connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=20)
        connection.request("GET", "/metrics")
        body = connection.getresponse().read()
        connection.close()
        assert TOKEN.encode() not in body
        with grpc.insecure_channel(server.rpc_address) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/{SERVICE}/ServerReady")(
                    pb.ServerReadyRequest().SerializeToString(), timeout=20
                )
            assert TOKEN not in str(caught.value)
