"""A fleet server as its own process, and devices that speak to it for real but run no model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from fakes.bundles import make_bundle
from skerry.cli.main import main
from skerry.devices.clock import SystemClock
from skerry.devices.enrolment import AgentSettings, enrol
from skerry.devices.identity import Identity
from skerry.devices.profile import Profile
from skerry.telemetry.messages import Event as Told
from skerry.telemetry.messages import SlotReport, TwinReported, new_boot_id
from skerry.telemetry.mqtt import device_link
from skerry.telemetry.outbox import Outbox, Priority
from skerry.telemetry.topics import Address
from skerry.telemetry.uplink import Uplink
from skerry.telemetry.window import Window
from skerry.updater.fetch import HttpFetcher
from skerry.updater.server.client import FleetClient
from skerry.updater.trust import Assignment, TrustedClient

PROFILE = Profile("x86_64", ("avx2",), 2, 8 << 30, {"onnxruntime": "1.31.1"}, ("onnx",), "test")
_PATIENCE_SECONDS = 60.0


def eventually(what: str, seen: Callable[[], Any]) -> Any:
    """What `seen` returns once it is true."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while not (found := seen()):
        assert time.monotonic() < until, f"{what} did not come"
        time.sleep(0.05)
    return found


class FleetProcess:
    """`skerry fleet serve` on a home of its own, with an operator's repository beside it."""

    def __init__(self, folder: Path, *init: str) -> None:
        self.folder, self.home, self.repo = folder, folder / "server", folder / "repo"
        assert main(["fleet", "init", "--home", str(self.home), *init]) == 0
        online = str(self.home / "keys" / "online.json")
        assert main(["keys", "init", "--repo", str(self.repo), "--online", online]) == 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> Self:
        command = [sys.executable, "-m", "skerry.cli.main", "fleet", "serve"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--home", str(self.home), *options], stdout=log, stderr=log
            )
        eventually("the server", self._answers)
        return self

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log()
        return (self.home / "server.json").exists()

    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        if number == signal.SIGKILL:
            (self.home / "server.json").unlink()
        return code

    @property
    def url(self) -> str:
        return str(json.loads((self.home / "server.json").read_text())["url"])

    @property
    def token(self) -> str:
        return (self.home / "operator.token").read_text().strip()

    @property
    def client(self) -> FleetClient:
        return FleetClient(self.url, self.token, self.ca)

    @property
    def ca(self) -> str:
        return str(json.loads((self.home / "server.json").read_text())["ca"])

    def publish(self, version: int, *how: str) -> None:
        """Sign and publish `linear/{version}`; `how` are further words to sign it with."""
        bundle = make_bundle(self.folder / f"b{version}", version=str(version), shift=version / 8)
        repo, token = ["--repo", str(self.repo)], str(self.home / "operator.token")
        assert main(["release", "sign", str(bundle), *repo, *how]) == 0
        server = ["--server", self.url, "--token-file", token]
        if self.ca:
            server += ["--ca-file", str(self.home / "ca" / "ca.pem")]
        assert main(["release", "publish", *repo, *server]) == 0

    def device(self, name: str, **options: Any) -> "PlainDevice":
        claim = self.client.post("/v1/claims", {"device": name})
        return PlainDevice(self.folder / "devices" / name, claim, name, **options)

    def roll_out(self, release: str, *, targets: Sequence[str] = (), **policy: Any) -> str:
        body = {"release": release, "policy": policy, "targets": list(targets), "start": True}
        return str(self.client.post("/v1/rollouts", body)["id"])

    def ended(self, rollout: str, state: str) -> dict[str, Any]:
        """The rollout once it is in `state`."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.update(self.client.rollout(rollout))
            return seen["state"] == state or seen["state"] not in ("draft", "running")

        eventually(f"{rollout} {state}", look)
        assert seen["state"] == state, seen
        return seen


class PlainDevice:
    """Enrols, polls, believes only what is signed, and tells over MQTT what it "did".

    `outcome(release)` says what becomes of an update: "commit", "fail", or "silence".
    """

    def __init__(
        self,
        home: Path,
        claim: dict[str, Any],
        name: str,
        outcome: Callable[[str], str] = lambda release: "commit",
    ) -> None:
        home.mkdir(parents=True)
        self.home, self.outcome, self.seen = home, outcome, list[str]()
        self.active: Assignment | None = None
        self.assigned: Assignment | None = None
        http = HttpFetcher()

        def post(url: str, body: bytes) -> bytes:
            return http.send("POST", url, body, content_type="application/json")

        def pin(_: object, image: bytes, director: bytes) -> None:
            TrustedClient(
                home / "trust",
                http,
                device=enrolled_id,
                server=claim["server"],
                clock=SystemClock(),
            ).enrol(image, director)

        from skerry.devices.ids import DeviceId

        enrolled_id = DeviceId(name)
        self.settings: AgentSettings = enrol(
            home, claim["server"], claim["token"], post, pin, profile=PROFILE, name=name
        )
        self.identity = Identity.load(home / "identity")
        self.address = Address(self.settings.tenant_id, self.settings.device_id)
        self.http = HttpFetcher(authorize=lambda: f"Bearer {self.assertion()}")
        self.trust = TrustedClient(
            home / "trust",
            self.http,
            device=self.settings.device_id,
            server=self.settings.server,
            clock=SystemClock(),
        )
        self._poll, self._stop = Event(), Event()
        self._threads: list[Thread] = []

    def assertion(self, audience: str = "") -> str:
        audience = audience or self.settings.audience
        return self.identity.assertion(self.settings.device_id, audience, time.time())

    def start(self) -> Self:
        mqtt = self.settings.mqtt
        assert mqtt is not None
        boot = new_boot_id()
        self.outbox = Outbox(self.home / "outbox.db", boot)
        link = device_link(mqtt.host, mqtt.port, self.address, boot, lambda: self.assertion("mqtt"))
        uplink = Uplink(
            link, self.outbox, self.address, on_command=lambda command: self._poll.set()
        )
        self._stop.clear()
        self._threads = [
            Thread(target=uplink.run, args=[self._stop], daemon=True),
            Thread(target=self._work, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._poll.set()
        for thread in self._threads:
            thread.join(20)

    def tell(self, kind: Any, release: str, reason: str = "", **fields: Any) -> None:
        told = Told(kind, time.time(), release, reason=reason, **fields)
        self.outbox.put("event", told.encode(), priority=Priority.EVENT)

    def window(self, **fields: Any) -> None:
        now = time.time()
        assert self.active is not None
        manifest = str(self.active.manifest.digest)
        window = Window(start=now - 1, end=now, manifest=manifest, artifact="onnx-fp32", **fields)
        self.outbox.put("window", window.encode(), priority=Priority.WINDOW)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                assigned = self.trust.assignment()
            except Exception:
                if os.environ.get("SKERRY_TEST_NOISE"):
                    raise
                assigned = None
            self.assigned = assigned or self.assigned
            if assigned and str(assigned.release) not in self.seen:
                self.seen.append(str(assigned.release))
                self._update(assigned)
            self._poll.wait(1.0)
            self._poll.clear()

    def _update(self, assigned: Assignment) -> None:
        release = str(assigned.release)
        outcome = self.outcome(release)
        if outcome == "silence":
            return
        self.tell("update_started", release)
        self.tell("downloaded", release, delta_bytes=100, full_bytes=1000)
        if outcome == "commit":
            self.active = assigned
            slot = SlotReport(release, str(assigned.manifest.digest), "onnx-fp32")
            twin = TwinReported(time.time(), active=slot)
            self.outbox.put("twin/reported", twin.encode(), priority=Priority.EVENT)
            self.tell("committed", release)
        else:
            self.tell("golden_failed", release, "output y differs")
            self.tell("rolled_back", release, "golden test failed")
