"""The road from outbox to sink over mosquitto, with its own password file and access list."""

import socket
import subprocess
import threading
import time

import pytest

from skerry.devices.ids import DeviceId, TenantId
from skerry.telemetry.collector import Collector
from skerry.telemetry.messages import Event, new_boot_id
from skerry.telemetry.mqtt import MqttLimits, MqttLink, MqttOptions, device_link
from skerry.telemetry.outbox import Outbox, Priority
from skerry.telemetry.topics import Address
from skerry.telemetry.uplink import Uplink, UplinkLimits

pytestmark = pytest.mark.service("mosquitto")

ME = Address(TenantId("acme"), DeviceId("cam-1"))
SECONDS = 30.0
QUICK = MqttLimits(retry_seconds=0.1, most_retry_seconds=0.3, connect_seconds=2.0)
ACCESS = """user collector
topic readwrite skerry/v1/#
pattern write skerry/v1/%u/window
pattern write skerry/v1/%u/event
pattern write skerry/v1/%u/state
pattern write skerry/v1/%u/twin/reported
pattern read skerry/v1/%u/ack
pattern read skerry/v1/%u/cmd/+
pattern read skerry/v1/%u/twin/desired
"""


class Mosquitto:
    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "access").write_text(ACCESS)
        (folder / "access").chmod(0o600)
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nacl_file {folder}/access\n"
            "max_inflight_messages 1000\nuser root\n"
        )

    def start(self):
        self.process = subprocess.Popen(
            ["mosquitto", "-c", str(self._configuration)], stderr=subprocess.DEVNULL
        )
        until(self._listens)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def _listens(self):
        assert self.process.poll() is None, "mosquitto ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


class Sink:
    def __init__(self):
        self.rows, self.states = {}, []

    def store(self, batch):
        return [record for record in batch if self.rows.setdefault(record.key, record) is record]

    def presence(self, address, state):
        self.states.append((address, state.online))


def test_nothing_is_lost_when_mosquitto_restarts(tmp_path):
    broker, sink, stop = Mosquitto(tmp_path), Sink(), threading.Event()
    broker.start()
    options = MqttOptions(
        host="127.0.0.1",
        port=broker.port,
        username="collector",
        password=lambda: "x",
        limits=QUICK,
    )
    collector = Collector(MqttLink(options), sink)
    collector.start()
    boot = new_boot_id()
    outbox = Outbox(tmp_path / "o.db", boot)
    link = device_link("127.0.0.1", broker.port, ME, boot, lambda: "x", limits=QUICK)
    limits = UplinkLimits(in_flight=16, resend_seconds=2.0, idle_seconds=0.05)
    thread = threading.Thread(target=Uplink(link, outbox, ME, limits=limits).run, args=(stop,))
    thread.start()
    try:
        for n in range(60):
            if n == 30:
                until(lambda: len(sink.rows) >= 5)
                broker.stop()
            event = Event("downloaded", float(n), delta_bytes=n)
            outbox.put("event", event.encode(), priority=Priority.EVENT)
        broker.start()
        until(lambda: outbox.waiting == 0)
        assert sorted(r.value.delta_bytes for r in sink.rows.values()) == list(range(60))
    finally:
        stop.set()
        thread.join()
    until(lambda: sink.states and sink.states[-1] == (ME, False))
    collector.stop()
    broker.stop()
