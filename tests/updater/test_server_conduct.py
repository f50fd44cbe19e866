"""Rollouts carried out against the real director, with the fleet store in memory."""

from pathlib import Path

import msgspec
import pytest

from fakes.harbour import ALL, Harbour
from fakes.operator import release
from skerry.devices.errors import InputError
from skerry.telemetry.messages import Event, SlotReport, TwinReported
from skerry.updater.rollout import Assignment, Gates, Policy
from skerry.updater.rollout import Stage as Step


@pytest.fixture
def harbour(tmp_path: Path) -> Harbour:
    made = Harbour(tmp_path)
    made.publish(1, 2, 3)
    made.enrol("a", "b", "c")
    return made


def test_the_director_names_the_release_for_the_canary_alone(harbour: Harbour) -> None:
    policy = Policy(stages=(Step("canary", devices=("b",)), Step("rest", percent=100)))
    rollout = harbour.start(1, policy)
    harbour.settle()
    assert harbour.assigned() == {"a": 0, "b": 1, "c": 0}
    assert harbour.woken == ["b"] and harbour.prepared == ["digits/1"]
    harbour.commit("b", 1)
    harbour.settle()
    assert harbour.assigned() == {"a": 1, "b": 1, "c": 1}
    assert harbour.rollout(rollout).reason == "rest: waiting for 2 devices"


def test_an_abort_leads_every_device_back_to_what_it_runs(harbour: Harbour) -> None:
    harbour.deliver(1, "a", "b", "c")
    rollout = harbour.start(2, ALL)
    harbour.settle()
    harbour.commit("a", 2)
    harbour.fail("b", 2)
    harbour.settle()
    found = harbour.rollout(rollout)
    assert (found.state, found.reason) == ("aborted", "b: golden test failed: x")
    assert {a.device: a.state for a in found.assignments} == {
        "a": "succeeded",
        "b": "failed",
        "c": "withdrawn",
    }
    assert harbour.assigned() == {"a": 2, "b": 1, "c": 1}


def test_a_device_that_joins_after_an_abort_gets_what_was_good(harbour: Harbour) -> None:
    standing = harbour.deliver(1, "a", "b", "c")
    harbour.start(2, Policy())
    harbour.settle()
    (tried,) = [name for name, counter in harbour.assigned().items() if counter == 2]
    harbour.fail(tried, 2)
    harbour.settle()
    harbour.enrol("late")
    harbour.settle()
    assert harbour.assigned() == {"a": 1, "b": 1, "c": 1, "late": 1}
    assert harbour.rollout(standing).state == "done"


def test_a_newer_rollout_ends_a_stuck_one_and_takes_its_devices(harbour: Harbour) -> None:
    stuck = harbour.start(1, ALL)
    harbour.settle()
    newer = harbour.start(2, ALL)
    harbour.settle()
    assert harbour.rollout(stuck).state == "superseded"
    assert harbour.rollout(stuck).reason == f"superseded by {newer}"
    assert {a.state for a in harbour.rollout(stuck).assignments} == {"withdrawn"}
    assert harbour.assigned() == {"a": 2, "b": 2, "c": 2}


def test_a_finished_rollout_is_superseded_when_the_next_is_finished(harbour: Harbour) -> None:
    first = harbour.deliver(1, "a", "b", "c")
    harbour.deliver(2, "a", "b", "c")
    assert harbour.rollout(first).state == "superseded"


def test_a_rollout_of_one_device_leaves_the_others_to_theirs(harbour: Harbour) -> None:
    first = harbour.deliver(1, "a", "b", "c")
    pinned = harbour.start(2, ALL, "c")
    harbour.settle()
    harbour.commit("c", 2)
    harbour.enrol("late")
    harbour.settle()
    assert harbour.rollout(pinned).state == "done"
    assert harbour.rollout(first).state == "done"
    assert harbour.assigned() == {"a": 1, "b": 1, "c": 2, "late": 1}


def test_a_crash_between_choosing_and_offering_is_made_good(harbour: Harbour) -> None:
    rollout = harbour.start(1, ALL)
    harbour.store.rollouts.put(rollout, Assignment("a", 0))  # and then the power went
    harbour.conductor = harbour.new_conductor()
    harbour.settle()
    assert harbour.assigned() == {"a": 1, "b": 1, "c": 1}
    assert [a.state for a in harbour.rollout(rollout).assignments] == ["assigned"] * 3


def test_a_lost_event_is_made_good_by_the_twin(harbour: Harbour) -> None:
    rollout = harbour.start(1, ALL)
    harbour.settle()
    slot = SlotReport("digits/1", str(release(1).manifest.digest))
    for name in ("a", "b", "c"):
        harbour.tell(name, TwinReported(harbour.clock.now(), slot))
    harbour.settle()
    assert harbour.rollout(rollout).state == "done"


def test_a_candidate_on_trial_is_no_success_yet(harbour: Harbour) -> None:
    rollout = harbour.start(1, ALL)
    harbour.settle()
    slot = SlotReport("digits/1", str(release(1).manifest.digest))
    for name in ("a", "b", "c"):
        harbour.tell(name, TwinReported(harbour.clock.now(), slot, candidate=slot))
    harbour.settle()
    assert harbour.rollout(rollout).state == "running"


def test_errors_in_the_windows_stop_the_next_stage(harbour: Harbour) -> None:
    harbour.deliver(1, "a", "b", "c")
    gates = Gates(error_rate=0.01, min_requests=100)
    stages = (Step("canary", devices=("a",)), Step("rest", percent=100))
    rollout = harbour.start(2, Policy(stages=stages, gates=gates))
    harbour.settle()
    harbour.commit("a", 2)
    harbour.settle()
    assert harbour.rollout(rollout).reason == "canary: a has answered 0 of 100 requests"
    harbour.window("a", 2, requests=100, errors=2)
    harbour.settle()
    found = harbour.rollout(rollout)
    assert (found.state, found.reason) == ("aborted", "a: 2.00% errors, the gate is 1.00%")
    assert harbour.assigned() == {"a": 2, "b": 1, "c": 1}


def test_soak_time_passes_before_the_next_stage(harbour: Harbour) -> None:
    policy = Policy(stages=(Step("canary", devices=("a",)), Step("rest", percent=100)), soak_s=60)
    harbour.start(1, policy)
    harbour.settle()
    harbour.commit("a", 1)
    harbour.settle()
    assert harbour.assigned() == {"a": 1, "b": 0, "c": 0}
    harbour.clock.advance(61)
    harbour.settle()
    assert harbour.assigned() == {"a": 1, "b": 1, "c": 1}


def test_an_aborted_rollout_takes_the_fleet_back_to_its_fallback(harbour: Harbour) -> None:
    harbour.deliver(1, "a", "b", "c")
    policy = msgspec.structs.replace(ALL, fallback="digits/3")
    rollout = harbour.start(2, policy)
    harbour.settle()
    harbour.commit("a", 2)
    harbour.fail("b", 2)
    harbour.settle()
    back = harbour.rollout(harbour.rollout(rollout).reverted_by)
    assert (back.release, back.targets) == ("digits/3", ("a",))
    assert harbour.assigned() == {"a": 3, "b": 1, "c": 1}


@pytest.mark.parametrize("fallback", ["digits/1", "digits/2", "other/3", "digits/9"])
def test_a_fallback_that_is_no_way_back_is_refused(harbour: Harbour, fallback: str) -> None:
    with pytest.raises(InputError, match="no way back"):
        harbour.start(2, Policy(fallback=fallback))


def test_a_later_regression_reopens_a_finished_rollout(harbour: Harbour) -> None:
    rollout = harbour.deliver(1, "a", "b", "c")
    harbour.tell("c", Event("rolled_back", harbour.clock.now(), "digits/1", reason="it crashed"))
    harbour.settle()
    found = harbour.rollout(rollout)
    assert (found.state, found.reason) == ("aborted", "c: rolled back: it crashed")


def test_a_revoked_device_does_not_hold_the_rollout_up(harbour: Harbour) -> None:
    rollout = harbour.start(1, ALL)
    harbour.settle()
    harbour.commit("a", 1)
    harbour.commit("b", 1)
    harbour.store.registry.revoke("c", harbour.clock.now())
    harbour.settle()
    assert harbour.rollout(rollout).state == "done"


def test_an_event_about_another_release_changes_nothing(harbour: Harbour) -> None:
    rollout = harbour.start(1, ALL)
    harbour.settle()
    now = harbour.clock.now()
    harbour.tell("a", Event("refused", now, "", reason="expired"), Event("refused", now, "other/7"))
    harbour.tell("nobody", Event("committed", now, "digits/1"))
    harbour.settle()
    assert {a.state for a in harbour.rollout(rollout).assignments} == {"assigned"}
    assert harbour.store.rollouts.unapplied(10) == []


def test_a_withdrawn_release_holds_no_other_rollout_up(harbour: Harbour) -> None:
    stuck = harbour.start(2, ALL, "a")
    harbour.withdraw(2)
    other = harbour.start(3, ALL, "b")
    harbour.settle()
    found = harbour.rollout(stuck)
    assert (found.state, found.reason) == ("paused", "digits/2: is no longer published")
    assert harbour.assigned() == {"a": 0, "b": 3, "c": 0}
    with pytest.raises(InputError, match="no longer published"):
        harbour.conductor.change(stuck, "resume")
    harbour.commit("b", 3)
    harbour.settle()
    assert harbour.rollout(other).state == "done"


def test_a_way_back_that_was_withdrawn_holds_no_other_rollout_up(harbour: Harbour) -> None:
    rollout = harbour.start(2, msgspec.structs.replace(ALL, fallback="digits/3"), "a", "b")
    harbour.settle()
    harbour.commit("a", 2)
    harbour.withdraw(3)
    harbour.fail("b", 2)
    harbour.start(1, ALL, "c")
    harbour.settle()
    found = harbour.rollout(rollout)
    assert (found.state, found.reverted_by) == ("aborted", "")
    assert "digits/3" in found.reason
    assert harbour.assigned()["c"] == 1


def test_a_revoked_device_is_no_canary(harbour: Harbour) -> None:
    harbour.store.registry.revoke("c", harbour.clock.now())
    with pytest.raises(InputError, match="not in the fleet: c"):
        harbour.start(1, Policy(stages=(Step("canary", devices=("c",)),)))


def test_a_clock_that_was_set_back_does_not_make_a_newer_rollout_older(harbour: Harbour) -> None:
    harbour.clock.jump(86_400)
    harbour.deliver(1, "a", "b", "c")
    harbour.clock.jump(-86_400)
    harbour.start(2, ALL, "a")
    harbour.settle()
    assert harbour.assigned() == {"a": 2, "b": 1, "c": 1}
