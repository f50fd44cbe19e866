import socket
import time

import pytest

from skerry.devices.errors import UnavailableError
from skerry.telemetry.embedded import BrokerLimits, EmbeddedBroker, _Packets
from skerry.telemetry.link import Message
from skerry.telemetry.mqtt import MqttLimits, MqttLink, MqttOptions
from skerry.telemetry.topics import device_may

SECONDS = 20.0
QUICK = MqttLimits(retry_seconds=0.1, most_retry_seconds=0.2, connect_seconds=2.0)


def may(user, action, topic):
    return user == "watch" or device_may(user, action, topic)


@pytest.fixture
def broker():
    limits = BrokerLimits(connect_seconds=1.0, packet_bytes=5000)
    broker = EmbeddedBroker(lambda user, password: password == f"of {user}", may, limits=limits)
    broker.start()
    yield broker
    broker.stop()


def link(broker, user, password=None, **messages):
    return MqttLink(
        MqttOptions(
            host="127.0.0.1",
            port=broker.port,
            username=user,
            password=lambda: password or f"of {user}",
            limits=QUICK,
            **messages,
        )
    )


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def text(value):
    return len(value).to_bytes(2, "big") + value


def connect(user, password, client=None, *, clean=True, will=None):
    flags = 0xC0 | (2 if clean else 0) | (4 if will else 0)
    body = text(b"MQTT") + bytes([4, flags, 0, 30]) + text(user if client is None else client)
    if will:
        body += text(will) + text(b"dead")
    body += text(user) + text(password)
    return bytes([0x10, len(body)]) + body


def answer(broker, packet):
    """What the broker says to `packet` before it closes, or its first four bytes."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=SECONDS) as peer:
        peer.sendall(packet)
        found = b""
        while len(found) < 4 and (part := peer.recv(4 - len(found))):
            found += part
        return found


GOOD, REFUSED = bytes([0x20, 2, 0, 0]), bytes([0x20, 2, 0, 5])


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (connect(b"acme/a", b"of acme/a"), GOOD),
        (connect(b"acme/a", b"wrong"), REFUSED),
        (connect(b"acme/a", b"of acme/a", client=b"acme/b"), REFUSED),
        (connect(b"acme/a", b"of acme/a", clean=False), REFUSED),
        (connect(b"acme/a", b"of acme/a", will=b"skerry/v1/acme/b/state"), REFUSED),
        (connect(b"acme/a", b"of acme/a", will=b"skerry/v1/acme/a/state"), GOOD),
        (b"GET / HTTP/1.1\r\n\r\n", REFUSED),
        (bytes([0x10, 0xFF, 0xFF, 0xFF, 0x7F]), REFUSED),
        (bytes([0x10, 4]) + b"\0\xff\0\0", REFUSED),
        (bytes([0x10, 90]), b""),
    ],
)
def test_only_a_right_login_gets_past_the_gate(broker, packet, expected):
    assert answer(broker, packet) == expected


def test_a_wrong_login_does_not_disturb_who_has_the_name(broker):
    victim = link(broker, "acme/a")
    victim.start()
    assert victim.wait_connected(SECONDS)
    before = victim.connection
    assert answer(broker, connect(b"acme/a", b"wrong")) == REFUSED
    assert victim.publish(Message("skerry/v1/acme/a/event", b"x")).wait(SECONDS)
    assert victim.connection == before
    victim.stop()


def test_a_device_reaches_only_its_own_topics(broker):
    watch, heard = link(broker, "watch"), []
    watch.subscribe("skerry/v1/#", lambda d: (heard.append(d.topic), d.ack()))
    watch.start()
    assert watch.wait_connected(SECONDS)
    device = link(broker, "acme/a")
    device.start()
    assert device.wait_connected(SECONDS)
    device.publish(Message("skerry/v1/acme/b/event", b"forged"))
    device.publish(Message("skerry/v1/acme/a/ack", b"forged"))
    device.publish(Message("skerry/v1/acme/a/event", b"own"))
    until(lambda: heard)
    assert heard == ["skerry/v1/acme/a/event"]
    spy = link(broker, "acme/c")
    spy.subscribe("skerry/v1/+/+/event", lambda d: heard.append("spied"))
    spy.start()
    assert not spy.wait_connected(1.0)
    for one in (watch, device, spy):
        one.stop()


def test_too_long_a_packet_ends_the_connection(broker):
    device = link(broker, "acme/a")
    device.start()
    assert device.wait_connected(SECONDS)
    before = device.connection
    assert not device.publish(Message("skerry/v1/acme/a/event", bytes(6000))).wait(SECONDS)
    until(lambda: device.connection > before)
    device.stop()


def test_a_port_that_is_taken_is_said_so(broker):
    second = EmbeddedBroker(lambda *_: True, may, port=broker.port)
    with pytest.raises(UnavailableError):
        second.start()


def publish(topic, body, qos):
    packet = text(topic) + (b"\0\1" if qos else b"") + body
    length = [len(packet)] if len(packet) < 128 else [len(packet) & 127 | 128, len(packet) >> 7]
    return bytes([0x30 | qos << 1, *length]) + packet


@pytest.mark.parametrize("qos", [2, 3])
@pytest.mark.parametrize("split", [False, True])
def test_what_the_broker_would_keep_for_ever_ends_the_connection(broker, qos, split):
    first = connect(b"acme/a", b"of acme/a") + publish(b"skerry/v1/acme/a/event", b"x", 1)
    packet = publish(b"skerry/v1/acme/a/event", b"y", qos)
    with socket.create_connection(("127.0.0.1", broker.port), timeout=SECONDS) as peer:
        for part in [first[:7], first[7:], packet[:1], packet[1:]] if split else [first + packet]:
            peer.sendall(part)
        found = b""
        try:
            while part := peer.recv(100):
                found += part
        except ConnectionResetError:
            pass
    assert bytes([0x50]) not in found, "no PUBREC"


def test_packets_are_found_wherever_the_stream_is_cut():
    stream = connect(b"a", b"b") + bytes([0xC0, 0]) + publish(b"t", bytes(200), 1) + b"\xe0\0"
    for size in (1, 2, 3, 7, len(stream)):
        packets, heads = _Packets(), []
        for at in range(0, len(stream), size):
            heads += packets.heads(stream[at : at + size])
        assert heads == [0x10, 0xC0, 0x32, 0xE0]
