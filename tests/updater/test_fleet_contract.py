"""The fleet store: in memory, on SQLite, and on PostgreSQL where it is installed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from fakes.fleet import MemoryFleet
from fakes.postgres import postgres
from skerry.devices.digest import Digest
from skerry.devices.errors import InputError, TrustError
from skerry.devices.ids import DeviceId, TenantId
from skerry.runtime.sketches import SketchSet
from skerry.telemetry.collector import Record
from skerry.telemetry.histogram import Histogram
from skerry.telemetry.messages import Event, SlotReport, TwinReported
from skerry.telemetry.topics import Address
from skerry.telemetry.window import Window
from skerry.updater.rollout import Assignment, Policy, Stage
from skerry.updater.server.audit import verify_chain
from skerry.updater.server.records import Claim, Delta, Device, Operator, PublishedRelease
from skerry.updater.server.sql import SqlFleet, open_fleet
from skerry.updater.server.sql.engine import open_database
from skerry.updater.server.sql.tables import METADATA
from skerry.updater.server.store import FleetStore

NOW = 1_800_000_000.0
BOOT = "0123456789abcdef"
MANIFEST = str(Digest.of(b"manifest"))
_STREAMS = {Window: "window", Event: "event", TwinReported: "twin/reported"}


_PLACES = ["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.service("postgres"))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=_PLACES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FleetStore]:
    opened: FleetStore
    if request.param == "memory":
        opened = MemoryFleet()
    elif request.param == "sqlite":
        opened = open_fleet(f"sqlite:///{tmp_path}/fleet.db", "main")
    else:
        database = open_database(request.getfixturevalue("cluster"))
        with database.writing() as c:
            for table in reversed(METADATA.sorted_tables):
                c.execute(sa.text(f"TRUNCATE {table.name} RESTART IDENTITY CASCADE"))
        opened = SqlFleet(database, "main")
    yield opened
    opened.close()


def device(name: str = "dev-1", key: str = "k1") -> Device:
    return Device(name, str(Digest.of(key.encode())), "PEM", NOW + 1000, NOW)


def claim(token: str = "t1", **fields: object) -> Claim:
    return Claim(token, NOW, NOW + 60, **fields)  # type: ignore[arg-type]


def record(value: Window | Event | TwinReported, seq: int = 1, name: str = "dev-1") -> Record:
    address = Address(TenantId("main"), DeviceId(name))
    stream = _STREAMS[type(value)]
    return Record(address, stream, BOOT, seq, NOW, NOW + 1, 0, value)  # type: ignore[arg-type]


def window(requests: int = 10, errors: int = 0, ms: float = 2.0, sketches: bytes = b"") -> Window:
    latency = Histogram()
    latency.add(ms / 1000, requests - errors)
    return Window(
        start=NOW,
        end=NOW + 5,
        manifest=MANIFEST,
        artifact="onnx-int8",
        requests=requests,
        rows=requests,
        errors={"engine": errors} if errors else {},
        latency=latency,
        sketches=sketches,
        rss_bytes=1 << 20,
    )


def enrolled(store: FleetStore, name: str = "dev-1") -> None:
    store.registry.add_claim(claim(name))
    store.registry.enrol(name, device(name, name), NOW)


def test_a_claim_lets_one_key_in_and_answers_it_again(store: FleetStore) -> None:
    store.registry.add_claim(claim())
    assert store.registry.enrol("t1", device(), NOW) == device()
    again = msgspec.structs.replace(device(), enrolled_at=NOW + 5)
    assert store.registry.enrol("t1", again, NOW + 999) == device(), "the first answer was lost"
    with pytest.raises(TrustError, match="another key"):
        store.registry.enrol("t1", device("dev-2", "k2"), NOW)
    (used,) = store.registry.claims()
    assert (used.used_by, used.used_at) == ("dev-1", NOW)


@pytest.mark.parametrize(
    ("token", "at", "name", "why"),
    [
        ("t9", NOW, "dev-1", "no such claim"),
        ("t1", NOW + 61, "dev-1", "expired"),
        ("t1", NOW, "dev-2", "claim is for dev-1"),
    ],
)
def test_a_claim_refuses(store: FleetStore, token: str, at: float, name: str, why: str) -> None:
    store.registry.add_claim(claim(device="dev-1"))
    with pytest.raises(TrustError, match=why):
        store.registry.enrol(token, device(name), at)
    assert store.registry.devices() == []


def test_a_taken_name_is_refused_and_the_claim_stays_good(store: FleetStore) -> None:
    enrolled(store)
    store.registry.add_claim(claim("t2"))
    with pytest.raises(InputError, match="enrolled already"):
        store.registry.enrol("t2", device("dev-1", "k2"), NOW)
    store.registry.enrol("t2", device("dev-2", "k2"), NOW)
    assert [d.id for d in store.registry.devices()] == ["dev-1", "dev-2"]


def test_a_revoked_device_is_denied_once_and_may_enrol_afresh(store: FleetStore) -> None:
    enrolled(store)
    assert store.registry.revoke("dev-1", NOW + 1) is True
    assert store.registry.revoke("dev-1", NOW + 2) is False
    assert store.registry.revoke("nobody", NOW) is False
    known = store.registry.device("dev-1")
    assert known is not None and known.revoked_at == NOW + 1
    store.registry.add_claim(claim("t2"))
    store.registry.enrol("t2", device("dev-1", "k2"), NOW + 3)
    with pytest.raises(TrustError):
        store.registry.enrol("dev-1", device("dev-1", "dev-1"), NOW + 4)
    known = store.registry.device("dev-1")
    assert known is not None and known.revoked_at == 0


def test_renewal_replaces_the_certificate(store: FleetStore) -> None:
    enrolled(store)
    store.registry.renew("dev-1", "NEW", str(Digest.of(b"new")), NOW + 5000)
    known = store.registry.device("dev-1")
    assert known is not None
    assert (known.certificate, known.not_after) == ("NEW", NOW + 5000)


def test_the_will_of_an_earlier_connection_does_not_end_a_later_one(store: FleetStore) -> None:
    enrolled(store)
    store.registry.presence("dev-1", True, "a" * 16, NOW)
    store.registry.presence("dev-1", True, "b" * 16, NOW + 1)
    store.registry.presence("dev-1", False, "a" * 16, NOW + 2)
    known = store.registry.device("dev-1")
    assert known is not None and known.online and known.last_seen == NOW + 1
    store.registry.presence("dev-1", False, "b" * 16, NOW + 3)
    known = store.registry.device("dev-1")
    assert known is not None and not known.online
    store.registry.presence("nobody", True, BOOT, NOW)


def test_when_the_broker_starts_nobody_is_connected(store: FleetStore) -> None:
    for name in ("dev-1", "dev-2"):
        enrolled(store, name)
        store.registry.presence(name, True, "a" * 16, NOW)
    store.registry.all_offline()
    assert [d.online for d in store.registry.devices()] == [False, False]
    assert [d.last_seen for d in store.registry.devices()] == [NOW, NOW]
    store.registry.presence("dev-1", True, "a" * 16, NOW + 1)
    assert [d.online for d in store.registry.devices()] == [True, False]


def test_operators_are_found_by_the_hash_of_their_token(store: FleetStore) -> None:
    store.access.add_operator(Operator("ops", "hash", NOW))
    store.access.add_operator(Operator("gone", "old", NOW, revoked_at=NOW))
    assert store.access.operator("hash") == Operator("ops", "hash", NOW)
    assert store.access.operator("old") is None
    assert store.access.operator("other") is None


def test_a_release_is_kept_once(store: FleetStore) -> None:
    for at in (NOW, NOW + 1):
        store.access.add_release(PublishedRelease("digits/1", "1.0", MANIFEST, 500, at))
    store.access.add_release(PublishedRelease("digits/2", "2.0", MANIFEST, 500, NOW + 2))
    assert [r.release for r in store.access.releases()] == ["digits/2", "digits/1"]


def test_a_delta_is_kept_for_each_pair_of_blobs(store: FleetStore) -> None:
    first = Delta("sha256:a", "sha256:b", "sha256:p", "onnx-int8", 10, 100)
    store.access.add_delta(first)
    store.access.add_delta(msgspec.structs.replace(first, base="sha256:c"))
    store.access.add_delta(msgspec.structs.replace(first, patch_bytes=9))
    found = {delta.base: delta.patch_bytes for delta in store.access.deltas()}
    assert found == {"sha256:a": 9, "sha256:c": 10}


def test_rollouts_keep_their_policy_and_assignments(store: FleetStore) -> None:
    policy = Policy(stages=(Stage("a", devices=("dev-1",)), Stage("b", percent=50)), soak_s=1.5)
    first = store.rollouts.add("digits/2", policy, ["dev-1", "dev-2"], NOW)
    second = store.rollouts.add("digits/3", Policy(), [], NOW)
    assert (first.id, second.id) == ("r1", "r2")
    store.rollouts.put("r1", Assignment("dev-2", 1, since=NOW))
    store.rollouts.put("r1", Assignment("dev-1", 0))
    store.rollouts.put("r1", Assignment("dev-1", 0, "failed", reason="no", recalled=True))
    found = store.rollouts.get("r1")
    assert found is not None and found.policy == policy and found.targets == ("dev-1", "dev-2")
    assert [(a.device, a.state, a.recalled) for a in found.assignments] == [
        ("dev-1", "failed", True),
        ("dev-2", "chosen", False),
    ]
    assert [r.id for r in store.rollouts.all()] == ["r1", "r2"]
    for name in ("r9", "x", "", "r", "r1.0", "r-1"):
        assert store.rollouts.get(name) is None


def test_a_rollout_is_saved_only_from_the_state_it_was_read_in(store: FleetStore) -> None:
    draft = store.rollouts.add("digits/2", Policy(), [], NOW)
    running = msgspec.structs.replace(draft, state="running", started_at=NOW, forgiven=("dev-1",))
    assert store.rollouts.save(running, was="draft") is True
    assert store.rollouts.save(running, was="draft") is False
    assert store.rollouts.get("r1") == running


def test_records_are_stored_exactly_once(store: FleetStore) -> None:
    enrolled(store)
    first, second = record(window(), 1), record(window(), 2)
    assert store.telemetry.store([first, second, first]) == [first, second]
    assert store.telemetry.store([second, record(window(), 3)]) == [record(window(), 3)]
    assert store.telemetry.store([]) == []
    (total,) = store.telemetry.totals()
    assert (total.windows, total.requests) == (3, 30)


def test_windows_add_up_by_device_and_manifest(store: FleetStore) -> None:
    enrolled(store)
    batch = [record(window(100, 1, ms=1.0), 1), record(window(100, 2, ms=50.0), 2)]
    store.telemetry.store(batch)
    store.telemetry.store([record(window(5), 1, "dev-2")])
    totals = {total.device: total for total in store.telemetry.totals()}
    assert set(totals) == {"dev-1", "dev-2"}
    mine = totals["dev-1"]
    assert (mine.requests, mine.errors, mine.latency.count) == (200, 3, 197)
    assert mine.latency.quantile(0.25) == pytest.approx(0.001, rel=0.05)
    assert mine.latency.quantile(0.99) == pytest.approx(0.050, rel=0.05)
    assert mine.last_end == NOW + 5 and mine.artifact == "onnx-int8"
    store.telemetry.set_drift("dev-1", MANIFEST, "drift")
    totals = {total.device: total for total in store.telemetry.totals()}
    assert [totals[name].drift for name in ("dev-1", "dev-2")] == ["drift", ""]


def test_sketches_come_newest_first_without_the_empty_ones(store: FleetStore) -> None:
    enrolled(store)
    blobs = [SketchSet().encode(), b"", SketchSet().encode()]
    for seq, blob in enumerate(blobs):
        store.telemetry.store([record(window(sketches=blob), seq)])
    assert store.telemetry.sketches("dev-1", MANIFEST, 3) == [blobs[2], blobs[0]]
    assert store.telemetry.sketches("dev-1", MANIFEST, 1) == [blobs[2]]


def test_a_twin_says_what_runs_and_an_older_one_does_not_undo_it(store: FleetStore) -> None:
    enrolled(store)
    slot, candidate = (
        SlotReport("digits/1", MANIFEST, "onnx-int8"),
        SlotReport("digits/2", MANIFEST),
    )
    store.telemetry.store([record(TwinReported(NOW + 2, active=slot, candidate=candidate), 2)])
    known = store.registry.device("dev-1")
    assert known is not None and (known.active, known.artifact, known.busy) == (
        "digits/1",
        "onnx-int8",
        True,
    )
    store.telemetry.store([record(TwinReported(NOW - 3, active=candidate), 3)])
    store.telemetry.store([record(TwinReported(NOW + 1, active=slot), 1)])
    known = store.registry.device("dev-1")
    assert known is not None and (known.active, known.busy) == ("digits/2", False)
    assert known.last_seen == NOW + 1


def test_events_wait_until_they_are_applied(store: FleetStore) -> None:
    enrolled(store)
    store.rollouts.add("digits/2", Policy(), [], NOW)
    told = [
        Event("update_started", NOW, "digits/2"),
        Event("rolled_back", NOW + 1, "digits/2", reason="golden\0 test"),
    ]
    store.telemetry.store([record(event, seq) for seq, event in enumerate(told)])
    waiting = store.rollouts.unapplied(10)
    assert [event.kind for event in waiting] == ["update_started", "rolled_back"]
    assert store.rollouts.unapplied(1) == waiting[:1]
    store.rollouts.apply([("r1", Assignment("dev-1", 0, "failed"))], waiting[:1])
    assert store.rollouts.unapplied(10) == waiting[1:]
    found = store.rollouts.get("r1")
    assert found is not None and [a.state for a in found.assignments] == ["failed"]
    newest = store.telemetry.events(10)
    assert [event.kind for event in newest] == ["rolled_back", "update_started"]
    assert newest[0].reason.startswith("golden")
    assert store.telemetry.events(10, "dev-2") == []


def test_what_is_old_goes_and_the_sums_stay(store: FleetStore) -> None:
    enrolled(store)
    sketches = SketchSet().encode()
    told = [Event("committed", NOW, "digits/1"), Event("refused", NOW)]
    store.telemetry.store([record(window(sketches=sketches), 1), record(told[0], 2)])
    store.rollouts.apply([], store.rollouts.unapplied(10))
    store.telemetry.store([record(told[1], 3)])
    assert store.telemetry.prune(NOW, NOW) == 0
    assert store.telemetry.prune(NOW + 2, NOW + 2) == 2
    assert store.telemetry.sketches("dev-1", MANIFEST, 5) == []
    assert [e.kind for e in store.telemetry.events(5)] == ["refused"], "not applied yet"
    assert [total.requests for total in store.telemetry.totals()] == [10]


def test_only_the_newest_windows_keep_their_sketches(store: FleetStore) -> None:
    enrolled(store)
    enrolled(store, "dev-2")
    blob = SketchSet().encode()
    for seq in range(5):
        store.telemetry.store([record(window(sketches=blob), seq)])
    store.telemetry.store([record(window(sketches=blob), 1, "dev-2")])
    store.telemetry.slim(9)
    assert len(store.telemetry.sketches("dev-1", MANIFEST, 9)) == 5
    store.telemetry.slim(3)
    assert len(store.telemetry.sketches("dev-1", MANIFEST, 9)) == 3
    assert len(store.telemetry.sketches("dev-2", MANIFEST, 9)) == 1
    assert store.telemetry.store([record(window(sketches=blob), 0)]) == [], "it is still known"
    store.telemetry.store([record(window(sketches=blob), 7)])
    assert len(store.telemetry.sketches("dev-1", MANIFEST, 9)) == 4
    store.telemetry.slim(3)
    assert len(store.telemetry.sketches("dev-1", MANIFEST, 9)) == 3
    assert [t.requests for t in store.telemetry.totals() if t.device == "dev-1"] == [60]


def test_more_windows_than_one_transaction_takes_are_slimmed(store: FleetStore) -> None:
    enrolled(store)
    blob = SketchSet().encode()
    store.telemetry.store([record(window(sketches=blob), seq) for seq in range(450)])
    while store.telemetry.slim(20):
        assert len(store.telemetry.sketches("dev-1", MANIFEST, 450)) > 20
    assert len(store.telemetry.sketches("dev-1", MANIFEST, 450)) == 20


def test_two_devices_with_one_claim(store: FleetStore) -> None:
    store.registry.add_claim(claim())

    def enrol(name: str) -> bool:
        try:
            store.registry.enrol("t1", device(name, name), NOW)
        except TrustError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        let_in = list(pool.map(enrol, [f"dev-{n}" for n in range(8)]))
    assert let_in.count(True) == 1
    assert len(store.registry.devices()) == 1


def test_the_audit_chain_holds_with_many_writers(store: FleetStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.audit.append("ops", "x", str(n), "", NOW), range(24)))
    assert verify_chain(store.audit.entries()) == 24


def test_the_audit_log_is_a_chain(store: FleetStore) -> None:
    for n in range(3):
        store.audit.append("ops", "rollout.start", f"r{n}", "", NOW + n)
    entries = store.audit.entries()
    assert verify_chain(entries) == 3
    assert store.audit.entries(after=1, limit=1) == entries[1:2]
    assert verify_chain(entries[1:], start=entries[0]) == 2
