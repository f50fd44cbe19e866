"""Whatever is sent to the API, the answer is JSON that says what was wrong, and never a 5xx."""

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fakes.fleet_process import PROFILE
from fakes.harbour import Harbour
from skerry.devices.enrolment import EnrolmentRequest
from skerry.devices.errors import InputError, TrustError
from skerry.devices.identity import Identity
from skerry.devices.ids import DeviceId
from skerry.updater.server.admission import hash_token
from skerry.updater.server.enrol import admit, create_claim
from skerry.updater.server.http.app import make_app
from skerry.updater.server.records import Operator

_OPERATOR, _VIEWER = "sko_operator", "sko_viewer"


class Api:
    """Calls the application without a network."""

    def __init__(self, folder: Path) -> None:
        self.harbour = Harbour(folder)
        self.harbour.publish(1, 2)
        now = self.harbour.clock.now()
        access = self.harbour.store.access
        access.add_operator(Operator("ops", hash_token(_OPERATOR), now))
        access.add_operator(Operator("eyes", hash_token(_VIEWER), now, "viewer"))
        self.closed: list[str] = []
        self.orders: list[tuple[str, bytes]] = []
        self.app = make_app(
            self.harbour.fleet,
            self.harbour.conductor,
            self.closed.append,
            lambda: {"stored": 1},
            lambda device, order: self.orders.append((str(device), order)),
        )
        self.identity = Identity.create(folder / "identity")
        self.device = self.admit("dev-1").device

    def admit(self, name: str) -> Any:
        claim = create_claim(self.harbour.fleet, "", 60)
        return admit(self.harbour.fleet, self.request(claim.token, name))

    def request(self, token: str, name: str) -> EnrolmentRequest:
        csr = self.identity.csr(name or "device").decode()
        return EnrolmentRequest(token, csr, PROFILE, name)

    def assertion(self) -> str:
        now = self.harbour.clock.now()
        return self.identity.assertion(DeviceId(self.device), self.harbour.fleet.url, now)

    def __call__(
        self,
        method: str,
        path: str,
        body: bytes | Callable[[], bytes] = b"",
        token: str = "",
        **headers: str,
    ) -> tuple[int, bytes]:
        route, _, query = path.partition("?")
        words = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
        if token:
            words.append((b"authorization", f"Bearer {token}".encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": route,
            "raw_path": route.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": words,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        status, parts = 0, []

        async def receive() -> dict[str, Any]:
            sent = body() if callable(body) else body
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        asyncio.run(self.app(scope, receive, send))
        return status, b"".join(parts)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    return Api(tmp_path_factory.mktemp("api"))


_WORDS = [
    "",
    "dev-1",
    "nobody",
    "..",
    "%00",
    "\0",
    "a" * 5000,
    "r1",
    "r99999999999999999999",
    "1.root.json",
    "timestamp.json",
    "../../operator.token",
    "ö",
    "\ufffd",
    "sha256:x",
    "0" * 64,
    "start",
    "explode",
    "-1",
    "1e9",
    "null",
]
_PATHS = [
    "/v1/enrol",
    "/v1/renew",
    "/image/{}",
    "/director/{}/{}",
    "/blobs/sha256/{}",
    "/v1/blobs/sha256/{}",
    "/v1/releases",
    "/v1/claims",
    "/v1/devices",
    "/v1/devices/{}/revoke",
    "/v1/devices/{}/capture",
    "/v1/events?limit={}&device={}",
    "/v1/audit?after={}&limit={}",
    "/v1/rollouts",
    "/v1/rollouts/{}",
    "/v1/rollouts/{}/{}",
    "/metrics",
    "/console/{}",
    "/console/sign-in",
    "/console/sign-out",
    "/",
    "/{}",
]
_BODIES: list[bytes] = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"release": "linear/1"}',
    b'{"release": "digits/1", "policy": {"stages": []}}',
    b'{"release": "digits/1", "policy": {"stages": [{"name": "a\\u0000", "percent": 1e308}]}}',
    b'{"release": "digits/1", "targets": ["\\u0000"]}',
    b'{"image": {"1.root.json": "e30="}, "director": {"../x": "e30="}}',
    b'{"device": "\\u0000", "minutes": 1e300}',
    b'{"device": "ok", "minutes": -1}',
    b'{"token": "x", "csr": "y", "name": "\\u0000", "profile": {}}',
    b"token=%ff%fe&token=2",
    b"x" * 2_000_000,
]


def test_no_request_makes_the_server_fail(api: Api) -> None:
    chance = random.Random(20261121)
    tokens = ["", "x", "a.b.c", "ö" * 10, _OPERATOR, _OPERATOR, _OPERATOR, _VIEWER]
    seen = set()
    for _ in range(1500):
        template = chance.choice(_PATHS)
        path = template.format(*(chance.choice(_WORDS) for _ in range(template.count("{}"))))
        method = chance.choice(["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"])
        token = chance.choice([*tokens, api.assertion()])
        body = chance.choice(_BODIES)
        headers = {"content_length": chance.choice([str(len(body)), "-1", "x", "9" * 30])}
        status, answer = api(method, path, body, token, **headers)
        seen.add(status)
        assert 200 <= status < 500, (method, path, token, body[:200], status, answer)
        if status >= 400 and method != "HEAD" and not answer.startswith(b"<!doctype"):
            said = json.loads(answer)
            assert said["error"] and said["exit_code"] in (2, 3, 4, 5), said
    assert {200, 303, 401, 403, 404, 405, 413, 422} <= seen, seen


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/claims"),
        ("POST", "/v1/rollouts"),
        ("POST", "/v1/rollouts/r1/start"),
        ("POST", "/v1/releases"),
        ("POST", "/v1/devices/dev-1/revoke"),
        ("POST", "/v1/devices/dev-1/capture"),
        ("PUT", "/v1/blobs/sha256/" + "0" * 64),
    ],
)
def test_a_viewer_changes_nothing(api: Api, method: str, path: str) -> None:
    status, answer = api(method, path, b"{}", _VIEWER, content_length="2")
    assert status == 403, answer
    assert api("GET", "/v1/devices", token=_VIEWER)[0] == 200


def test_a_device_is_no_operator_and_an_operator_no_device(api: Api) -> None:
    assert api("GET", "/v1/devices", token=api.assertion())[0] == 401
    assert api("GET", "/image/timestamp.json", token=_OPERATOR)[0] == 401
    assert api("GET", "/image/timestamp.json", token=api.assertion())[0] == 200


def test_a_device_whose_clock_is_wrong_is_told_what_to_do(tmp_path: Path) -> None:
    api = Api(tmp_path)
    token = api.assertion()
    api.harbour.clock.advance(86_400)
    status, answer = api("GET", "/image/timestamp.json", token=token)
    told = json.loads(answer)
    assert status == 401 and "clock" in told["remedy"]
    assert told["remedy"] not in told["problem"]


def test_metrics_are_for_operators_and_can_be_parsed(api: Api) -> None:
    assert api("GET", "/metrics")[0] == 401
    status, text = api("GET", "/metrics", token=_VIEWER)
    assert status == 200
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name.startswith("skerry_") and float(value) >= 0


def test_an_enrolment_is_answered_again_to_the_same_key_alone(tmp_path: Path) -> None:
    api = Api(tmp_path)
    claim = create_claim(api.harbour.fleet, "", 60)
    first = admit(api.harbour.fleet, api.request(claim.token, ""))
    api.harbour.clock.advance(10_000)
    assert admit(api.harbour.fleet, api.request(claim.token, "")) == first
    api.identity = Identity.create(tmp_path / "another")
    with pytest.raises(TrustError, match="used by another key"):
        admit(api.harbour.fleet, api.request(claim.token, ""))


def test_a_revoked_device_enrols_afresh_and_its_old_key_stays_out(tmp_path: Path) -> None:
    api = Api(tmp_path)
    old = api.identity
    assert api("POST", "/v1/devices/dev-1/revoke", token=_OPERATOR)[0] == 200
    assert api.closed == ["dev-1"]
    assert api("GET", "/image/timestamp.json", token=api.assertion())[0] == 401
    api.identity = Identity.create(tmp_path / "another")
    api.admit("dev-1")
    assert api("GET", "/image/timestamp.json", token=api.assertion())[0] == 200
    api.identity = old
    assert api("GET", "/image/timestamp.json", token=api.assertion())[0] == 401


def test_a_renewed_certificate_may_be_for_a_new_key(tmp_path: Path) -> None:
    api = Api(tmp_path)
    fresh = Identity.create(tmp_path / "fresh")
    body = msgspec.json.encode({"csr": fresh.csr("dev-1").decode()})
    status, answer = api("POST", "/v1/renew", body, api.assertion())
    assert status == 200 and "CERTIFICATE" in json.loads(answer)["certificate"]
    assert api("GET", "/image/timestamp.json", token=api.assertion())[0] == 401
    api.identity = fresh
    assert api("GET", "/image/timestamp.json", token=api.assertion())[0] == 200


def test_an_oversized_profile_is_refused(tmp_path: Path) -> None:
    api = Api(tmp_path)
    claim = create_claim(api.harbour.fleet, "", 60)
    request = api.request(claim.token, "big")
    wide = msgspec.structs.replace(PROFILE, system="x" * 20_000)
    with pytest.raises(InputError, match="too long"):
        admit(api.harbour.fleet, msgspec.structs.replace(request, profile=wide))


def test_a_full_disk_refuses_uploads(tmp_path: Path) -> None:
    api = Api(tmp_path)
    api.app.state.fleet = _with_limits(api.harbour.fleet, reserve_bytes=1 << 62)
    path = "/v1/blobs/sha256/" + "0" * 64
    status, answer = api("PUT", path, b"x", _OPERATOR, content_length="1")
    assert status == 413 and b"no room" in answer


def _with_limits(fleet: Any, **limits: int) -> Any:
    from dataclasses import replace

    return replace(fleet, limits=replace(fleet.limits, **limits))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/releases"),
        ("POST", "/v1/rollouts"),
        ("POST", "/v1/claims"),
        ("PUT", f"/v1/keys/{'0' * 32}"),
        ("POST", "/v1/devices/dev-1/capture"),
        ("POST", "/v1/renew"),
    ],
)
def test_nothing_is_read_from_whoever_may_not_call(api: Api, method: str, path: str) -> None:
    def body() -> bytes:
        raise AssertionError("the body was read")

    for token in ("", "sko_somebody", _VIEWER):
        assert api(method, path, body, token)[0] in (401, 403)


def test_little_is_read_from_whoever_is_not_known_yet(api: Api) -> None:
    assert api("POST", "/v1/enrol", b" " * (1 << 16) + b"{}")[0] == 413
