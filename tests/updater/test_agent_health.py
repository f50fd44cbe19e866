import threading

import pytest

from fakes.clock import FakeClock
from skerry.devices.clock import SystemClock
from skerry.devices.digest import Digest
from skerry.runtime.observe import Observation
from skerry.updater.agent.health import Health, HealthLimits, HealthWatch, judge

LIMITS = HealthLimits(seconds=10.0, requests=100, errors=1, error_share=0.05)
RELEASE, OTHER = Digest.of(b"release"), Digest.of(b"other")


def _call(manifest: Digest, error: str | None = None) -> Observation:
    return Observation(manifest, "onnx-int8", 0.001, 1, {}, {}, error)


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
    assert "1 of 1 calls failed" in str(watch.health)


def test_a_stop_leaves_it_undecided() -> None:
    stop = threading.Event()
    stop.set()
    assert HealthWatch(RELEASE, SystemClock(), LIMITS).verdict(stop) == "wait"
