import threading

import pytest

from fakes.clock import FakeClock
from skerry.devices.clock import SystemClock
from skerry.devices.digest import Digest
from skerry.runtime.observe import Observation
from skerry.updater.agent.health import (
    Health,
    HealthLimits,
    HealthWatch,
    Latencies,
    complaint,
    judge,
)

LIMITS = HealthLimits(seconds=10.0, requests=100, errors=1, error_share=0.05)
RELEASE, OTHER = Digest.of(b"release"), Digest.of(b"other")


def _call(manifest: Digest, error: str | None = None, seconds: float = 0.001) -> Observation:
    return Observation(manifest, "onnx-int8", seconds, 1, {}, {}, error)


@pytest.mark.parametrize(
    ("answered", "failed", "elapsed", "verdict"),
    [
        (0, 0, 9.9, "wait"),
        (0, 0, 10.0, "well"),
        (100, 0, 0.1, "well"),
        (99, 1, 0.1, "wait"),
        (5, 1, 9.0, "wait"),
        (5, 2, 0.1, "ill"),
        (95, 5, 0.1, "wait"),
        (94, 6, 0.1, "ill"),
        (200, 50, 60.0, "ill"),
    ],
)
def test_the_rule(answered: int, failed: int, elapsed: float, verdict: str) -> None:
    assert judge(Health(answered, failed), elapsed, LIMITS) == verdict


@pytest.mark.parametrize(
    ("health", "verdict"),
    [
        (Health(100, latency_s=0.039, before_s=0.010), "well"),  # 3 times, and 10 ms
        (Health(100, latency_s=0.041, before_s=0.010), "ill"),
        (Health(99, latency_s=0.041, before_s=0.010), "wait"),  # judged at the end alone
        (Health(100, latency_s=9.0, before_s=0.0), "well"),  # too few to compare with
        (Health(100, agreement=0.89), "ill"),
        (Health(100, agreement=0.91), "well"),
        (Health(100, agreement=None), "well"),
    ],
)
def test_latency_and_agreement_are_judged_at_the_end(health: Health, verdict: str) -> None:
    limits = HealthLimits(seconds=10.0, requests=100, agreement=0.9)
    assert judge(health, 1.0, limits) == verdict


def test_latency_may_be_left_out() -> None:
    slow = Health(100, latency_s=9.0, before_s=0.001)
    assert judge(slow, 10.0, HealthLimits(latency_ratio=0)) == "well"


@pytest.mark.parametrize(
    ("before", "now", "judged"), [(100, 100, True), (99, 500, False), (500, 99, False)]
)
def test_latency_needs_enough_calls_of_both(before: int, now: int, judged: bool) -> None:
    known = Latencies()
    for _ in range(before):
        known.observed(_call(OTHER, seconds=0.002))
        known.observed(_call(OTHER, "engine", seconds=9.0))
    watch = HealthWatch(RELEASE, FakeClock(), HealthLimits(requests=1_000), before=known.of(OTHER))
    for _ in range(now):
        watch.observed(_call(RELEASE, seconds=0.5))
    health = watch.health
    assert bool(health.before_s and health.latency_s) is judged
    assert bool(complaint(health, HealthLimits())) is judged


def test_old_calls_and_old_releases_are_forgotten() -> None:
    known = Latencies(span=10)
    for number in range(100):
        known.observed(_call(RELEASE, seconds=9.0 if number < 80 else 0.001))
    assert 10 <= known.of(RELEASE).count <= 20
    assert known.of(RELEASE).high < 1
    for other in (b"a", b"b"):
        known.observed(_call(Digest.of(other)))
    assert known.of(RELEASE).count == 0 and known.of(Digest.of(b"b")).count == 1


def test_only_calls_of_the_release_and_only_its_own_faults_count() -> None:
    watch = HealthWatch(RELEASE, FakeClock(), LIMITS)
    for call in [_call(OTHER, "engine"), _call(RELEASE, "signature"), _call(RELEASE)]:
        watch.observed(call)
    watch.observed(_call(RELEASE, "engine"))
    assert watch.health == Health(1, 1, "engine")


def test_enough_good_calls_end_the_trial_from_another_thread() -> None:
    limits = HealthLimits(seconds=3_600.0, requests=50)
    watch = HealthWatch(RELEASE, SystemClock(), limits)
    calls = threading.Thread(target=lambda: [watch.observed(_call(RELEASE)) for _ in range(50)])
    calls.start()
    assert watch.verdict(threading.Event()) == "well"
    calls.join()


def test_a_bad_call_ends_the_trial_at_once() -> None:
    watch = HealthWatch(RELEASE, SystemClock(), HealthLimits(seconds=3_600.0))
    watch.observed(_call(RELEASE, "engine"))
    assert watch.verdict(threading.Event()) == "ill"
    assert "1 of 1 calls failed" in complaint(watch.health, HealthLimits())


def test_a_stop_leaves_it_undecided() -> None:
    stop = threading.Event()
    stop.set()
    assert HealthWatch(RELEASE, SystemClock(), LIMITS).verdict(stop) == "wait"
