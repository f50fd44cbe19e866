"""The second half of the road: a server, three devices, rollouts, attacks, the view of it."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.digits import data
from examples.road.building import Built
from examples.road.client import Caller
from examples.road.processes import Children, wait_until
from examples.road.stage import Stage
from tuf.api.metadata import Metadata, Timestamp

from skerry.devices.digest import Digest
from skerry.devices.files import write_atomically
from skerry.devices.output import human_bytes, table
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.repository.keys import OnlineKeys
from skerry.updater.repository.signing import expiry, sign

_NAMES = ("quay", "lighthouse", "ferry")
_CANARY = _NAMES[0]
_KILLED = _NAMES[1]
_MODEL = "digits"
_START_SECONDS = 90.0
# A demonstration looks, reports and tries every few seconds; devices take minutes by default.
_PACE = ("--poll", "5", "--window", "2", "--trial", "2")
_ROLLOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """The fleet server and the operator's own folder of offline keys."""

    home: Path
    repository: Path
    url: str

    @property
    def operator(self) -> tuple[str | Path, ...]:
        return ("--server", self.url, "--token-file", self.home / "operator.token")


@dataclass
class Device:
    """One device: a folder, and a process that serves from it."""

    name: str
    home: Path
    caller: Caller | None = field(default=None)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = (self.home / "runtime.address").read_text().strip().rpartition(":")
        return host, int(port)


def serve(stage: Stage, children: Children, work: Path, first: Built) -> Server:
    with stage.step("Make keys, sign version 1, start a fleet server, publish"):
        home, repository = work / "server", work / "keys"
        made = children.skerry("fleet", "init", "--home", home)
        children.skerry("keys", "init", "--repo", repository, "--online", made["online"])
        children.begin("server", "fleet", "serve", "--home", home)
        address = wait_until(
            "the fleet server", lambda: _json(home / "server.json"), _START_SECONDS
        )
        server = Server(home, repository, address["url"])
        stage.done("root and targets keys made offline, freshness keys on the server")
        _publish(children, server, first.bundle)
        stage.done(f"{_MODEL}/1 signed and published to {server.url}")
    return server


def enrol(stage: Stage, children: Children, work: Path, server: Server) -> list[Device]:
    with stage.step("Enrol three devices, each with a key made on the device"):
        devices = []
        for name in _NAMES:
            device = Device(name, work / "devices" / name)
            claim = work / f"{name}.claim"
            children.skerry(
                "fleet", "claims", "create", *server.operator, "--out", claim, "--device", name
            )
            children.skerry("agent", "enrol", "--home", device.home, "--claim", claim)
            children.begin(
                name,
                "agent",
                "run",
                "--home",
                device.home,
                "--poll",
                "5",
                "--window",
                "2",
                "--trial",
                "2",
            )
            devices.append(device)
        for device in devices:
            wait_until(
                f"the endpoint of {device.name}",
                (device.home / "runtime.address").exists,
                _START_SECONDS,
            )
            stage.done(f"{device.name}: enrolled, serving on port {device.address[1]}")
    return devices


def deliver_first(stage: Stage, children: Children, server: Server) -> None:
    with stage.step("Deliver version 1"):
        rollout = _roll_out(children, server, 1, "--soak", "0")
        _wait_for(stage, children, server, rollout, "done")
        for row in _devices(children, server):
            fetched = human_bytes(row["full_bytes"])
            stage.done(f"{row['device']}: {row['release']} active, {fetched} fetched")


@contextmanager
def calling(stage: Stage, devices: Sequence[Device]) -> Iterator[None]:
    """Call every device without pause, at first with scans like those of training."""
    scans = data.evaluation()
    for device in devices:
        device.caller = Caller(device.address, _MODEL, scans["image"], scans["label"])
        device.caller.start()
    try:
        yield
    finally:
        for device in devices:
            if device.caller:
                device.caller.stop()
    with stage.step("What the callers saw, through every update and attack"):
        rows = []
        for device in devices:
            assert device.caller is not None
            tally = device.caller.tally
            rates = ", ".join(
                f"{version}: {tally.correct[version] / count:.1%} of {count:,}"
                for version, count in sorted(tally.answers.items())
            )
            rows.append([device.name, tally.answered, tally.failed, tally.resent, rates])
            assert not tally.failed, f"{device.name} failed: {dict(tally.reasons)}"
        head = ["device", "answered", "failed", "sent again", "right, by version"]
        stage.block(table(head, rows))


def watch_drift(
    stage: Stage, children: Children, server: Server, devices: Sequence[Device]
) -> None:
    with stage.step("The world changes: the scans get worse, and the fleet notices"):

        def verdicts() -> dict[str, str]:
            found = {row["device"]: row["drift"] for row in _devices(children, server)}
            stage.doing(", ".join(f"{name} {verdict}" for name, verdict in found.items()))
            return found

        wait_until(
            "the verdict on the first scans",
            lambda: set(verdicts().values()) == {"ok"},
            _ROLLOUT_SECONDS,
        )
        stage.done(f"on scans like those of training: drift verdict ok on {len(devices)} devices")
        drifted = data.drifted_evaluation()
        for device in devices:
            assert device.caller is not None
            device.caller.show(drifted["image"], drifted["label"])
        wait_until(
            "the verdict on drifted scans",
            lambda: set(verdicts().values()) == {"drift"},
            _ROLLOUT_SECONDS,
        )
        stage.done(f"on worn scans: drift verdict drift on {len(devices)} devices")


def roll_out_second(
    stage: Stage, children: Children, server: Server, devices: Sequence[Device], second: Built
) -> None:
    with stage.step("Roll version 2 out by delta: one canary, then the rest; kill one midway"):
        _publish(children, server, second.bundle)
        rollout = _roll_out(children, server, 2, "--canary", _CANARY, "--soak", "2")
        victim = next(device for device in devices if device.name == _KILLED)
        killed = wait_until(
            f"the update of {victim.name}", lambda: _kill_midway(victim), _ROLLOUT_SECONDS
        )
        stage.done(f"{victim.name}: killed (SIGKILL) while its update was {killed!r}")
        _wait_for(stage, children, server, rollout, "done")
        for row in _devices(children, server):
            saved = f"{human_bytes(row['delta_bytes'])} of {human_bytes(row['full_bytes'])}"
            stage.done(f"{row['device']}: {row['release']} active, {saved} fetched")


def _kill_midway(device: Device) -> str | None:
    """SIGKILL the device's worker if it is in the middle of an update; the state it was in."""
    journal = _json(device.home / "store" / "journal.json")
    if not journal:
        return None
    pid = int((device.home / "worker.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    return str(journal.get("state", "under way"))


def attack(stage: Stage, children: Children, server: Server, third: Path) -> None:
    with stage.step("Attack: tamper with a blob on the server, replay an expired timestamp"):
        _publish(children, server, third)
        blob = server.home / "blobs" / "sha256" / _artifact(third).hex
        good = blob.read_bytes()
        blob.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
        since = time.time()
        rollout = _roll_out(children, server, 3, "--canary", _CANARY)
        stage.refused(_refusal(children, server, since)["reason"])
        _wait_for(stage, children, server, rollout, "aborted")
        blob.write_bytes(good)

        since = time.time()
        with _expired_timestamp(server):
            stage.refused(_refusal(children, server, since)["reason"])


def refuse_bad_release(stage: Stage, children: Children, server: Server) -> None:
    with stage.step("Publish version 3, signed by the right keys, whose model is damaged"):
        rollout = _roll_out(children, server, 3, "--canary", _CANARY)
        found = _wait_for(stage, children, server, rollout, "aborted")
        for device in found["devices"]:
            if device["state"] == "failed":
                stage.done(f"{device['device']}: rolled back by itself: {device['reason']}")
        for row in _devices(children, server):
            assert row["release"] == f"{_MODEL}/2", f"{row['device']} runs {row['release']}"
        events = children.skerry("fleet", "events", *server.operator)["events"]
        saw = {event["device"] for event in events if event["release"] == f"{_MODEL}/3"}
        assert saw == {_CANARY}, f"{_MODEL}/3 reached {', '.join(sorted(saw))}"
        stage.done(f"never saw it: {', '.join(name for name in _NAMES if name not in saw)}")


def show(stage: Stage, children: Children, server: Server) -> None:
    """The fleet view, from what arrived over MQTT."""
    with stage.step("The fleet, as it reported itself over MQTT"):
        head = ["device", "release", "requests", "p50 ms", "p99 ms", "errors", "drift"]
        rows = [
            [
                row["device"],
                row["release"],
                row["requests"],
                f"{row['p50_ms']:.3f}",
                f"{row['p99_ms']:.3f}",
                row["errors"],
                row["drift"],
                f"{row['delta_bytes']:,} of {row['full_bytes']:,}",
            ]
            for row in _devices(children, server)
        ]
        stage.block(table([*head, "delta bytes"], rows))


def stay(stage: Stage, work: Path) -> None:
    """Leave everything running until Ctrl-C."""
    home = work / "server"
    stage.done(f"console: {_json(home / 'server.json')['url']}/")
    stage.done(f"operator token: {(home / 'operator.token').read_text().strip()}")
    stage.done("Ctrl-C ends the server and the devices")
    with suppress(KeyboardInterrupt):
        signal.pause()


def _publish(children: Children, server: Server, bundle: Path) -> None:
    children.skerry("release", "sign", bundle, "--repo", server.repository)
    children.skerry("release", "publish", "--repo", server.repository, *server.operator)


def _roll_out(children: Children, server: Server, counter: int, *options: str) -> str:
    release = f"{_MODEL}/{counter}"
    made = children.skerry(
        "fleet", "rollout", "create", release, *options, "--start", *server.operator
    )
    return str(made["id"])


def _wait_for(
    stage: Stage, children: Children, server: Server, rollout: str, state: str
) -> dict[str, Any]:
    """Wait until the rollout ends; it must end as `state`."""

    def ended() -> dict[str, Any] | None:
        view = children.skerry("fleet", "rollout", "status", rollout, *server.operator)
        waiting = [f"{row['device']} {row['state']}" for row in view["devices"]]
        stage.doing(", ".join(waiting))
        return view if view["state"] in {"done", "aborted", "paused"} else None

    view: dict[str, Any] = wait_until(f"the end of rollout {rollout}", ended, _ROLLOUT_SECONDS)
    assert view["state"] == state, f"rollout {rollout} is {view['state']}: {view['reason']}"
    return view


def _devices(children: Children, server: Server) -> list[dict[str, Any]]:
    found = children.skerry("fleet", "devices", *server.operator)
    return sorted(found["devices"], key=lambda row: str(row["device"]))


def _refusal(children: Children, server: Server, since: float) -> dict[str, Any]:
    """The first event `refused` that arrives after `since`."""

    def arrived() -> dict[str, Any] | None:
        events = children.skerry("fleet", "events", *server.operator)["events"]
        refused = [e for e in events if e["kind"] == "refused" and e["at"] >= since]
        return refused[0] if refused else None

    found: dict[str, Any] = wait_until("a refusal", arrived, _ROLLOUT_SECONDS)
    return found


@contextmanager
def _expired_timestamp(server: Server) -> Iterator[None]:
    """While in here, the server answers as one that was frozen an hour ago: its newest timestamp,
    rightly signed, has expired."""
    path = server.home / "image" / "timestamp.json"
    good = path.read_bytes()
    timestamp = Metadata[Timestamp].from_bytes(good).signed
    timestamp.version += 1
    timestamp.expires = expiry(time.time(), -3600)
    signer = OnlineKeys.load(server.home / "keys").image["timestamp"]
    write_atomically(path, sign(timestamp, [signer]))
    try:
        yield
    finally:
        write_atomically(path, good)


def _artifact(bundle: Path) -> Digest:
    return Bundle.open(bundle).card.artifacts[0].blob.descriptor().digest


def _json(path: Path) -> dict[str, Any]:
    """The document at `path`, or {} while there is none."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return document
