"""One contract for the fake broker in memory and for paho against one that is really started."""

import time
from queue import Empty, Queue

import pytest

from fakes.broker import FakeBroker
from skerry.devices.errors import InputError, UnavailableError
from skerry.telemetry.embedded import EmbeddedBroker
from skerry.telemetry.link import Message
from skerry.telemetry.mqtt import MqttLimits, MqttLink, MqttOptions

SECONDS = 20.0
QUICK = MqttLimits(retry_seconds=0.1, most_retry_seconds=0.3, connect_seconds=2.0)


class Fake:
    def __init__(self):
        self.broker, self.links = FakeBroker(), []

    def link(self, name, **messages):
        self.links.append(self.broker.link(**messages))
        return self.links[-1]

    def down(self):
        self.broker.down()

    def up(self):
        self.broker.up()

    def cut(self, name, link):
        self.broker.cut(link)

    def close(self):
        for link in self.links:
            link.stop()


class Embedded:
    def __init__(self):
        self.broker = EmbeddedBroker(lambda user, password: password == "p", lambda *_: True)
        self.broker.start()
        self.links = []

    def link(self, name, **messages):
        options = MqttOptions(
            host="127.0.0.1",
            port=self.broker.port,
            username=name,
            password=lambda: "p",
            limits=QUICK,
            **messages,
        )
        self.links.append(MqttLink(options))
        return self.links[-1]

    def down(self):
        self.broker.stop()

    def up(self):
        self.broker.start()

    def cut(self, name, link):
        self.broker.disconnect(name)

    def close(self):
        for link in self.links:
            link.stop()
        self.broker.stop()


@pytest.fixture(params=[Fake, Embedded])
def world(request):
    world = request.param()
    yield world
    world.close()


def until(condition):
    """Wait for what another thread or process brings about."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def listening(world, name, topic_filter, **messages):
    link, inbox = world.link(name, **messages), Queue()
    link.subscribe(topic_filter, inbox.put)
    link.start()
    assert link.wait_connected(SECONDS)
    return link, inbox


def take(inbox):
    delivery = inbox.get(timeout=SECONDS)
    delivery.ack()
    return delivery


def test_what_is_published_arrives_where_it_is_wanted(world):
    _, window = listening(world, "one", "t/+/window")
    _, other = listening(world, "two", "t/a/event")
    sender, _ = listening(world, "three", "none")
    assert sender.publish(Message("t/a/window", b"\0\xff")).wait(SECONDS)
    sender.publish(Message("t/a/event", b"e"))
    delivery = take(window)
    assert (delivery.topic, delivery.payload) == ("t/a/window", b"\0\xff")
    assert take(other).payload == b"e"
    with pytest.raises(Empty):
        window.get_nowait()


def test_what_is_retained_is_told_to_who_comes_later(world):
    sender, _ = listening(world, "one", "none", hello=Message("t/a/state", b"on", retain=True))
    assert sender.publish(Message("t/b/state", b"on", retain=True)).wait(SECONDS)
    _, late = listening(world, "two", "t/+/state")
    assert {take(late).topic, take(late).topic} == {"t/a/state", "t/b/state"}


def test_a_lost_connection_publishes_the_will_and_comes_back(world):
    _, inbox = listening(world, "watch", "t/a/state")
    link, _ = listening(
        world, "a", "none", hello=Message("t/a/state", b"on"), will=Message("t/a/state", b"off")
    )
    assert take(inbox).payload == b"on"
    before = link.connection
    world.cut("a", link)
    assert [take(inbox).payload, take(inbox).payload] == [b"off", b"on"]
    until(lambda: link.connection > before)


def test_leaving_publishes_the_will(world):
    _, inbox = listening(world, "watch", "t/a/state")
    link, _ = listening(world, "a", "none", will=Message("t/a/state", b"off"))
    link.stop()
    assert take(inbox).payload == b"off"
    assert link.connection == 0
    with pytest.raises(UnavailableError):
        link.publish(Message("t", b""))


def test_links_come_back_after_the_broker_does(world):
    link, inbox = listening(world, "a", "t/+")
    before = link.connection
    link.publish(Message("t/1", b"1"))
    early = inbox.get(timeout=SECONDS)
    world.down()
    until(lambda: not link.connection)
    with pytest.raises(UnavailableError):
        link.publish(Message("t/2", b"2"))
    world.up()
    assert link.wait_connected(SECONDS)
    assert link.connection > before
    early.ack()
    link.publish(Message("t/3", b"3"))
    assert take(inbox).payload == b"3"


def test_one_subscribes_before_the_start(world):
    link, _ = listening(world, "a", "t")
    with pytest.raises(InputError):
        link.subscribe("u", print)
