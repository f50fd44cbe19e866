import json
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.devices.enrolment import (
    AgentSettings,
    Enrolled,
    EnrolmentRequest,
    MqttAddress,
    encode_root,
    enrol,
)
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.identity import csr_public_key, public_key_digest
from skerry.devices.probe import probe

URL = "http://fleet.example:8080"
Post = Callable[[str, bytes], bytes]


class Server:
    def __init__(self, **changes: object) -> None:
        self.requests: list[EnrolmentRequest] = []
        self.changes = changes

    def __call__(self, url: str, body: bytes) -> bytes:
        assert url == f"{URL}/v1/enrol"
        self.requests.append(EnrolmentRequest.decode(body))
        answer = {
            "device": self.requests[-1].name or "dev-1",
            "tenant": "default",
            "audience": "https://canonical.example",
            "certificate": "CERT",
            "ca": "CA",
            "mqtt": {"host": "", "port": 1883, "tls": False},
            "image_root": encode_root(b"image"),
            "director_root": encode_root(b"director"),
        }
        return json.dumps(answer | self.changes).encode()


def _join(home: Path, post: Post, pinned: list[bytes] | None = None) -> AgentSettings:
    def pin(answer: Enrolled, image: bytes, director: bytes) -> None:
        if pinned is not None:
            pinned.extend([image, director])

    return enrol(home, URL, "token", post, pin, profile=probe(), name="gate-7")


def test_what_is_kept_can_be_loaded_again(tmp_path: Path) -> None:
    pinned: list[bytes] = []
    server = Server()
    agent = _join(tmp_path / "home", server, pinned)
    assert pinned == [b"image", b"director"]
    assert AgentSettings.load(tmp_path / "home") == agent
    assert (str(agent.device_id), agent.audience) == ("gate-7", "https://canonical.example")
    assert (tmp_path / "home/identity/certificate.pem").read_text() == "CERT"
    assert b"PRIVATE" not in server.requests[0].csr.encode()


def test_a_lost_answer_is_asked_for_again_with_the_same_key(tmp_path: Path) -> None:
    server = Server()

    def lost(url: str, body: bytes) -> bytes:
        server(url, body)
        raise UnavailableError("reset", where=url)

    with pytest.raises(UnavailableError):
        _join(tmp_path, lost)
    with pytest.raises(InputError, match="not enrolled"):
        AgentSettings.load(tmp_path)
    _join(tmp_path, server)
    first, second = (csr_public_key(r.csr.encode()) for r in server.requests)
    assert public_key_digest(first) == public_key_digest(second)


def test_a_second_enrolment_of_one_home_is_refused(tmp_path: Path) -> None:
    _join(tmp_path, Server())
    with pytest.raises(InputError, match="already"):
        _join(tmp_path, Server())


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "../x"},
        {"device": 5},
        {"image_root": "%%%"},
        {"mqtt": {"host": 1}},
        {"tenant": ""},
    ],
)
def test_nonsense_leaves_the_home_unenrolled(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        _join(tmp_path, Server(**changes))
    assert not (tmp_path / "agent.json").exists()


def test_an_endless_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too many"):
        _join(tmp_path, lambda url, body: b" " * ((1 << 20) + 1))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtts://fleet.example.org", MqttAddress("fleet.example.org", 8883, True)),
        ("mqtt://10.0.0.1:2883/", MqttAddress("10.0.0.1", 2883, False)),
        ("mqtts://[fd00::1]:1", MqttAddress("fd00::1", 1, True)),
    ],
)
def test_a_broker_may_be_reached_elsewhere(url: str, address: MqttAddress) -> None:
    assert MqttAddress.parse(url) == address


@pytest.mark.parametrize(
    "url", ["fleet:8883", "https://a", "mqtt://", "mqtt://a:99999", "mqtt://a/b", "mqtt://u@a"]
)
def test_what_is_no_broker_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="no address of a broker"):
        MqttAddress.parse(url)
