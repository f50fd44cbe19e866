"""From outbox to sink and back: at least once on the wire, exactly once in the store."""

import threading
import time

import pytest

from fakes.broker import FakeBroker
from fakes.clock import FakeClock
from skerry.devices.errors import UnavailableError
from skerry.devices.ids import DeviceId, TenantId
from skerry.telemetry.collector import Collector, CollectorLimits, ranges_of
from skerry.telemetry.embedded import EmbeddedBroker
from skerry.telemetry.link import Message
from skerry.telemetry.messages import Ack, Command, Envelope, Event, State, new_boot_id
from skerry.telemetry.mqtt import MqttLimits, MqttLink, MqttOptions, device_link
from skerry.telemetry.outbox import Outbox, Priority
from skerry.telemetry.topics import Address, Topic, device_may
from skerry.telemetry.uplink import Uplink, UplinkLimits
from skerry.telemetry.window import Window

ME = Address(TenantId("acme"), DeviceId("cam-1"))
SECONDS = 30.0
QUICK = MqttLimits(retry_seconds=0.05, most_retry_seconds=0.2, connect_seconds=2.0)
FAST = CollectorLimits(retry_seconds=0.01, idle_seconds=0.02)


class Sink:
    """A `TelemetrySink` in memory that can be told to fail."""

    def __init__(self):
        self.rows, self.states, self.failures, self.offered = {}, [], 0, 0

    def store(self, batch):
        if self.failures:
            self.failures -= 1
            raise UnavailableError("the database is away")
        self.offered += len(batch)
        new = [record for record in batch if self.rows.setdefault(record.key, record) is record]
        return new

    def presence(self, address, state):
        self.states.append((address, state.online))


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def put(outbox, count, first=0):
    for n in range(first, first + count):
        event = Event("downloaded", float(n), release="digits/3", delta_bytes=n)
        outbox.put("event", event.encode(), priority=Priority.EVENT)


@pytest.fixture
def fake(tmp_path):
    broker, sink, clock = FakeBroker(), Sink(), FakeClock()
    collector = Collector(broker.link(), sink, limits=FAST)
    outbox = Outbox(tmp_path / "o.db", new_boot_id())
    link = broker.link()
    commands = []
    uplink = Uplink(link, outbox, ME, clock=clock, on_command=commands.append)
    link.start()
    collector.start()
    yield broker, sink, collector, outbox, uplink, clock, commands
    collector.stop()


def test_what_is_put_is_stored_and_then_freed(fake):
    broker, sink, collector, outbox, uplink, _, _ = fake
    put(outbox, 10)
    assert uplink.send_waiting() == 10
    until(lambda: outbox.waiting == 0)
    assert sorted(record.value.delta_bytes for record in sink.rows.values()) == list(range(10))
    assert {record.stream for record in sink.rows.values()} == {"event"}
    assert broker.unacknowledged == 0
    assert (collector.stored, collector.duplicates) == (10, 0)


def test_what_the_broker_lost_is_sent_again(fake):
    broker, sink, _, outbox, uplink, clock, _ = fake
    put(outbox, 6)
    broker.swallow = 3
    uplink.send_waiting()
    until(lambda: outbox.waiting == 3)
    assert uplink.send_waiting() == 0
    clock.advance(31)
    assert uplink.send_waiting() == 3
    until(lambda: outbox.waiting == 0)
    assert len(sink.rows) == 6


def test_what_is_sent_twice_is_stored_once(fake):
    broker, sink, collector, outbox, uplink, _, _ = fake
    put(outbox, 5)
    uplink.send_waiting()
    until(lambda: outbox.waiting == 0)
    for message in [m for m in broker.published if m.topic.endswith("/event")]:
        broker.route(message)
    until(lambda: collector.duplicates == 5)
    assert len(sink.rows) == 5
    until(lambda: broker.unacknowledged == 0)


def test_nothing_is_acknowledged_before_it_is_stored(fake):
    broker, sink, _, outbox, uplink, _, _ = fake
    sink.failures = 20
    put(outbox, 3)
    uplink.send_waiting()
    until(lambda: sink.failures < 10)
    assert broker.unacknowledged == 3
    assert outbox.waiting == 3
    until(lambda: outbox.waiting == 0)


def test_two_runs_of_a_device_do_not_collide(fake, tmp_path):
    broker, sink, _, outbox, uplink, _, _ = fake
    put(outbox, 3)
    uplink.send_waiting()
    fresh = Outbox(tmp_path / "replaced.db", new_boot_id())
    put(fresh, 3)
    link = broker.link()
    again = Uplink(link, fresh, ME)
    link.start()
    again.send_waiting()
    until(lambda: len(sink.rows) == 6 and not outbox.waiting and not fresh.waiting)


@pytest.mark.parametrize(
    "payload", [b"", b"\xff" * 20, Envelope("0" * 16, 1, 0.0, 0, b"?").encode()]
)
def test_what_cannot_be_read_stops_nothing(fake, payload):
    broker, sink, collector, outbox, uplink, _, _ = fake
    broker.route(Message(str(Topic(ME, "event")), payload))
    broker.route(Message(str(Topic(ME, "state")), b"?"))
    put(outbox, 1)
    uplink.send_waiting()
    until(lambda: len(sink.rows) == 1)
    assert collector.refused == 2
    until(lambda: broker.unacknowledged == 0)


def test_what_the_server_does_not_know_is_not_offered_for_ever(fake):
    _, sink, collector, outbox, uplink, _, _ = fake
    window = Window(start=1.0, end=2.0, manifest="sha256:" + "0" * 64, artifact="a", sketches=b"?")
    for _ in range(70):
        outbox.put("event", b"of a later version", priority=Priority.EVENT)
    outbox.put("window", window.encode(), priority=Priority.WINDOW)
    put(outbox, 1)
    until(lambda: uplink.send_waiting() == 0 and outbox.waiting == 0)
    assert len(sink.rows) == 1
    assert collector.refused == 71


def test_one_record_that_cannot_be_stored_takes_no_other_with_it(fake):
    _, sink, collector, outbox, uplink, _, _ = fake
    store = sink.store

    def storing(batch):
        if any(record.value.delta_bytes == 3 for record in batch):
            raise OverflowError("too large for the database")
        return store(batch)

    sink.store = storing
    put(outbox, 10)
    uplink.send_waiting()
    until(lambda: outbox.waiting == 0)
    assert len(sink.rows) == 9
    assert (collector.stored, collector.refused) == (9, 1)


def test_a_device_survives_nonsense_from_the_server(fake):
    broker, _, collector, outbox, uplink, _, commands = fake
    put(outbox, 2)
    broker.route(Message(str(Topic(ME, "ack")), b"\xc1"))
    broker.route(Message(str(Topic(ME, "cmd", "1")), b"nonsense"))
    broker.route(Message(str(Topic(ME, "ack")), Ack("f" * 16, [(0, 2**62)]).encode()))
    assert outbox.waiting == 2
    collector.command(ME, Command("7", "poll", 1.0))
    assert [command.id for command in commands] == ["7"]
    uplink.send_waiting()
    until(lambda: outbox.waiting == 0)


def test_ranges():
    assert ranges_of({7, 1, 2, 3}) == [(1, 3), (7, 7)]
    assert ranges_of([]) == []


def server_link(broker):
    options = MqttOptions(
        host="127.0.0.1",
        port=broker.port,
        username="collector",
        password=lambda: "secret",
        limits=QUICK,
    )
    return MqttLink(options)


def test_over_a_real_broker_that_restarts_nothing_is_lost(tmp_path):
    broker = EmbeddedBroker(
        lambda user, password: password == ("secret" if user == "collector" else "device"),
        lambda user, action, topic: user == "collector" or device_may(user, action, topic),
    )
    broker.start()
    sink, stop = Sink(), threading.Event()
    collector = Collector(server_link(broker), sink, limits=FAST)
    collector.start()
    boot, passwords, commands = new_boot_id(), [], []

    def password():
        passwords.append(1)
        return "device"

    outbox = Outbox(tmp_path / "o.db", boot)
    link = device_link("127.0.0.1", broker.port, ME, boot, password, limits=QUICK)
    limits = UplinkLimits(in_flight=16, resend_seconds=2.0, idle_seconds=0.05)
    uplink = Uplink(link, outbox, ME, on_command=commands.append, limits=limits)
    thread = threading.Thread(target=uplink.run, args=(stop,))
    thread.start()
    try:
        put(outbox, 40)
        until(lambda: len(sink.rows) >= 5)
        broker.stop()
        put(outbox, 40, first=40)
        broker.start()
        until(lambda: outbox.waiting == 0)
        assert sorted(r.value.delta_bytes for r in sink.rows.values()) == list(range(80))
        assert len(passwords) >= 2
        until(lambda: (ME, True) in sink.states)

        def commanded():
            collector.command(ME, Command("poll-1", "poll", 1.0))
            return bool(commands)

        until(commanded)
    finally:
        stop.set()
        thread.join()
        until(lambda: sink.states and sink.states[-1] == (ME, False))
        collector.stop()
        broker.stop()


def test_a_state_message_says_who_and_when():
    state = State(online=True, boot="0" * 16, at=1.0)
    assert State.decode(state.encode()) == state
