"""The rules of a rollout, one at a time, then all together under random fleets."""

import random
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.devices.errors import InputError
from skerry.updater.rollout import (
    Action,
    Assignment,
    Choose,
    Confirm,
    DeviceEvent,
    DeviceFacts,
    Finish,
    Gates,
    Health,
    Lapse,
    Offer,
    Policy,
    Revert,
    Rollout,
    Stage,
    Step,
    Stop,
    Wait,
    Withdraw,
    device_after,
    plan,
    rollout_after,
)

NOW = 1_800_000_000.0
FLEET = tuple(DeviceFacts(f"dev-{n}", online=True) for n in range(10))


def rollout(*assignments: Assignment, policy: Policy | None = None, **fields: object) -> Rollout:
    return Rollout(
        "r1",
        "digits/2",
        policy or Policy(),
        **{"state": "running", "assignments": assignments, **fields},  # type: ignore[arg-type]
    )


def at(device: str, state: str, stage: int = 0, since: float = NOW, **fields: object) -> Assignment:
    values = {"offered_at": NOW, "since": since, **fields}
    return Assignment(device, stage, state, **values)  # type: ignore[arg-type]


def kinds(actions: tuple[Action, ...]) -> list[type]:
    return [type(action) for action in actions]


def test_the_canary_stage_chooses_one_device() -> None:
    assert kinds(plan(rollout(), FLEET, NOW)) == [Choose]


def test_a_chosen_device_is_offered_the_release_and_nothing_else_happens() -> None:
    assert plan(rollout(at("dev-1", "chosen")), FLEET, NOW) == (Offer("dev-1"),)


def test_while_the_canary_updates_nobody_else_is_chosen() -> None:
    (action,) = plan(rollout(at("dev-1", "updating")), FLEET, NOW)
    assert action == Wait("canary: waiting for 1 device")


def test_after_the_canary_has_committed_the_next_stage_begins() -> None:
    assert plan(rollout(at("dev-1", "succeeded")), FLEET, NOW) == (Step(1),)
    actions = plan(rollout(at("dev-1", "succeeded"), stage=1), FLEET, NOW)
    assert {a.device for a in actions if isinstance(a, Choose)} == {
        d.device for d in FLEET if d.device != "dev-1"
    }


def test_an_online_device_is_preferred_for_the_canary() -> None:
    fleet = [*(msgspec.structs.replace(d, online=False) for d in FLEET), DeviceFacts("up", True)]
    assert plan(rollout(), fleet, NOW) == (Choose("up", 0),)


def test_a_named_canary_is_the_canary() -> None:
    policy = Policy(stages=(Stage("canary", devices=("dev-7",)), Stage("rest", percent=100)))
    assert plan(rollout(policy=policy), FLEET, NOW) == (Choose("dev-7", 0),)


def test_the_soak_time_is_counted_from_the_last_success() -> None:
    policy = Policy(soak_s=60)
    canary = at("dev-1", "succeeded", since=NOW)
    assert plan(rollout(canary, policy=policy), FLEET, NOW + 59) == (Wait("canary: soaking"),)
    assert plan(rollout(canary, policy=policy), FLEET, NOW + 60) == (Step(1),)


def test_one_failure_aborts_and_takes_back_what_was_not_committed() -> None:
    failed = at("dev-1", "failed", reason="golden test failed")
    actions = plan(rollout(failed, at("dev-2", "assigned"), at("dev-3", "succeeded")), FLEET, NOW)
    stop = Stop(True, "dev-1: golden test failed")
    assert actions == (stop, Withdraw("dev-1"), Withdraw("dev-2"))


def test_one_failure_pauses_where_the_policy_says_so() -> None:
    policy = Policy(on_failure="pause")
    actions = plan(rollout(at("dev-1", "failed"), at("dev-2", "assigned"), policy=policy), FLEET, 0)
    assert actions == (Stop(False, "dev-1: failed"),)


def test_a_failure_that_was_seen_is_not_counted_again() -> None:
    policy = Policy(on_failure="pause", stages=(Stage("all", percent=100),))
    seen = rollout(
        at("dev-1", "failed"), at("dev-2", "succeeded"), policy=policy, forgiven=("dev-1",)
    )
    assert plan(seen, FLEET[1:3], NOW) == (Finish(),)
    again = msgspec.structs.replace(seen, assignments=(*seen.assignments, at("dev-3", "failed")))
    assert kinds(plan(again, FLEET, NOW)) == [Stop]


def test_another_canary_takes_the_place_of_one_that_failed_and_was_forgiven() -> None:
    forgiven = rollout(at("dev-1", "failed"), forgiven=("dev-1",))
    (chosen,) = plan(forgiven, FLEET, NOW)
    assert isinstance(chosen, Choose) and chosen.device != "dev-1"


def test_after_a_named_canary_that_was_forgiven_comes_the_next_stage() -> None:
    stages = (Stage("canary", devices=("dev-1",)), Stage("rest", percent=100))
    policy = Policy(on_failure="pause", stages=stages)
    forgiven = rollout(at("dev-1", "failed"), policy=policy, forgiven=("dev-1",))
    assert plan(forgiven, FLEET, NOW) == (Step(1),)


def test_tolerated_failures_that_leave_too_few_successes_stop_the_rollout() -> None:
    policy = Policy(max_failures=2, success_percent=80, stages=(Stage("all", percent=100),))
    states = ["succeeded"] * 7 + ["failed"] * 2 + ["updating"]
    going = [at(f"dev-{n}", state) for n, state in enumerate(states)]
    assert kinds(plan(rollout(*going, policy=policy), FLEET, NOW)) == [Wait]
    going[-1] = at("dev-9", "succeeded")
    assert plan(rollout(*going, policy=policy), FLEET, NOW) == (Finish(),)
    going[-2:] = [at("dev-8", "failed"), at("dev-9", "late")]
    going[0] = at("dev-0", "failed")
    stop = plan(rollout(*going, policy=msgspec.structs.replace(policy, max_failures=9)), FLEET, NOW)
    assert stop == (Stop(True, "all: 67% succeeded, 80% are needed"),)


def test_a_device_that_does_not_answer_is_late_and_another_takes_its_place() -> None:
    quiet = at("dev-1", "assigned")
    assert plan(rollout(quiet), FLEET, NOW + 3601) == (Lapse("dev-1"),)
    (action,) = plan(rollout(at("dev-1", "late")), FLEET, NOW + 3602)
    assert isinstance(action, Choose) and action.device != "dev-1"


def test_a_device_that_left_the_fleet_is_withdrawn_and_does_not_block() -> None:
    assert plan(rollout(at("gone", "updating")), FLEET, NOW) == (Withdraw("gone"),)
    assert kinds(plan(rollout(at("gone", "withdrawn")), FLEET, NOW)) == [Choose]


def test_a_device_that_reports_the_release_as_active_is_confirmed() -> None:
    fleet = [DeviceFacts("dev-1", runs="digits/2")]
    actions = plan(rollout(at("dev-1", "assigned")), fleet, NOW)
    assert actions[0] == Confirm("dev-1")


def test_no_more_devices_update_at_once_than_the_policy_allows() -> None:
    policy = Policy(max_in_flight=3, stages=(Stage("all", percent=100),))
    assert kinds(plan(rollout(policy=policy), FLEET, NOW)) == [Choose] * 3
    flying = [at("dev-1", "updating"), at("dev-2", "assigned")]
    assert kinds(plan(rollout(*flying, policy=policy), FLEET, NOW)) == [Choose]


def test_targets_bound_the_rollout() -> None:
    policy = Policy(stages=(Stage("all", percent=100),))
    actions = plan(rollout(policy=policy, targets=("dev-2", "dev-3")), FLEET, NOW)
    assert {a.device for a in actions if isinstance(a, Choose)} == {"dev-2", "dev-3"}


@pytest.mark.parametrize(
    ("gates", "health", "named"),
    [
        (Gates(error_rate=0.01), Health(requests=1000, errors=11), "1.10% errors"),
        (Gates(p99_ms=5), Health(requests=1000, p99_ms=5.1), "p99 5.1 ms"),
        (Gates(drift=True), Health(requests=1000, drift="drift"), "drifted"),
    ],
)
def test_a_broken_gate_stops_the_rollout(gates: Gates, health: Health, named: str) -> None:
    fleet = [DeviceFacts("dev-1", health=health), *FLEET[2:]]
    stop, *_ = plan(rollout(at("dev-1", "succeeded"), policy=Policy(gates=gates)), fleet, NOW)
    assert isinstance(stop, Stop) and named in stop.reason


def test_a_stage_waits_until_its_devices_can_be_judged() -> None:
    policy = Policy(gates=Gates(error_rate=0.01, min_requests=100))
    going = rollout(at("dev-1", "succeeded"), policy=policy)
    few = [DeviceFacts("dev-1", health=Health(requests=10, errors=10)), *FLEET[2:]]
    assert plan(going, few, NOW) == (Wait("canary: dev-1 has answered 10 of 100 requests"),)
    enough = [DeviceFacts("dev-1", health=Health(requests=100)), *FLEET[2:]]
    assert plan(going, enough, NOW) == (Step(1),)


def test_a_finished_rollout_serves_devices_that_join_later() -> None:
    done = rollout(at("dev-1", "succeeded"), state="done", stage=1)
    joined = [FLEET[1], DeviceFacts("new")]
    assert plan(done, joined, NOW) == (Choose("new", 1),)


def test_a_regression_after_the_end_stops_it() -> None:
    done = rollout(at("dev-1", "failed", reason="rolled back"), state="done", stage=1)
    assert plan(done, FLEET[1:2], NOW) == (Stop(True, "dev-1: rolled back"), Withdraw("dev-1"))


@pytest.mark.parametrize("state", ["draft", "paused"])
def test_nothing_happens_before_the_start_and_in_a_pause(state: str) -> None:
    assert plan(rollout(at("dev-1", "chosen"), state=state), FLEET, NOW) == ()


@pytest.mark.parametrize("state", ["aborted", "superseded"])
def test_an_ended_rollout_takes_back_what_is_still_open(state: str) -> None:
    ended = rollout(at("dev-1", "assigned"), at("dev-2", "succeeded"), state=state)
    assert plan(ended, FLEET, NOW) == (Withdraw("dev-1"),)


def test_an_aborted_rollout_with_a_fallback_takes_committed_devices_back_once() -> None:
    policy = Policy(fallback="digits/3")
    ended = rollout(at("dev-1", "failed"), at("dev-2", "succeeded"), policy=policy, state="aborted")
    assert plan(ended, FLEET, NOW) == (Withdraw("dev-1"), Revert("digits/3", ("dev-2",)))
    reverted = msgspec.structs.replace(ended, reverted_by="r2")
    assert plan(reverted, FLEET, NOW) == (Withdraw("dev-1"),)


def test_a_verb_that_does_not_fit_names_those_that_do() -> None:
    assert rollout_after("running", "pause") == "paused"
    with pytest.raises(InputError, match="draft cannot pause; it can abort or start"):
        rollout_after("draft", "pause")
    with pytest.raises(InputError, match="create another"):
        rollout_after("aborted", "resume")


@dataclass
class World:
    """Applies actions to a rollout as the server does, and plays the devices."""

    rollout: Rollout
    fleet: list[DeviceFacts]
    now: float = NOW
    chosen: list[str] = field(default_factory=list)
    stages_left: list[tuple[Rollout, int]] = field(default_factory=list)

    def move(self, device: str, event: DeviceEvent) -> None:
        def moved(a: Assignment) -> Assignment:
            state = device_after(a.state, event)
            offered = self.now if event == "offer" else a.offered_at
            since = self.now if state != a.state else a.since
            recalled = a.recalled or event == "withdraw"
            return msgspec.structs.replace(
                a, state=state, since=since, offered_at=offered, recalled=recalled
            )

        self.put(moved(a) if a.device == device else a for a in self.rollout.assignments)

    def put(self, assignments: object, **fields: object) -> None:
        self.rollout = msgspec.structs.replace(
            self.rollout,
            assignments=tuple(assignments),
            **fields,  # type: ignore[arg-type]
        )

    def apply(self, action: Action) -> None:
        rest = self.rollout.assignments
        match action:
            case Choose(device, stage):
                flying = sum(a.state in ("chosen", "assigned", "updating") for a in rest)
                assert flying < (self.rollout.policy.max_in_flight or 1_000)
                self.chosen.append(device)
                self.put((*rest, Assignment(device, stage, since=self.now)))
            case Offer(device):
                self.move(device, "offer")
            case Confirm(device):
                self.move(device, "confirm")
            case Lapse(device):
                self.move(device, "lapse")
            case Withdraw(device):
                self.move(device, "withdraw")
            case Step(stage):
                self.stages_left.append((self.rollout, self.rollout.stage))
                self.put(rest, stage=stage)
            case Stop(abort, _):
                verb = "abort" if abort else "pause"
                self.put(rest, state=rollout_after(self.rollout.state, verb))
            case Finish():
                self.stages_left.append((self.rollout, self.rollout.stage))
                self.put(rest, state=rollout_after(self.rollout.state, "finish"))


policies = st.builds(
    Policy,
    stages=st.lists(st.integers(1, 100), min_size=1, max_size=4).map(
        lambda shares: tuple(
            Stage(f"s{n}", percent=share) for n, share in enumerate([*sorted(shares), 100])
        )
    ),
    success_percent=st.integers(1, 100),
    min_successes=st.integers(1, 5),
    max_failures=st.integers(0, 3),
    soak_s=st.sampled_from([0, 10, 100]),
    device_timeout_s=st.sampled_from([50, 1000]),
    max_in_flight=st.none() | st.integers(1, 5),
    on_failure=st.sampled_from(["abort", "pause"]),
)


@settings(max_examples=150, deadline=None)
@given(
    policy=policies,
    size=st.integers(1, 20),
    targeted=st.integers(0, 20),
    bad=st.floats(0, 0.4),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_fleet_does(
    policy: Policy, size: int, targeted: int, bad: float, seed: int
) -> None:
    chance = random.Random(seed)
    names = [f"d{n}" for n in range(size)]
    targets = tuple(names[:targeted]) if targeted < size else ()
    world = World(
        rollout(policy=policy, targets=targets),
        [DeviceFacts(name, online=chance.random() < 0.8) for name in names],
    )
    for _ in range(120):
        actions = plan(world.rollout, world.fleet, world.now)
        assert actions == plan(world.rollout, world.fleet, world.now)
        for action in actions[: chance.choice([1, len(actions)])]:  # or a crash between two
            world.apply(action)
        for a in world.rollout.assignments:
            if a.state in ("assigned", "updating", "late") and chance.random() < 0.5:
                outcome = "rolled_back" if chance.random() < bad else "committed"
                world.move(a.device, chance.choice(["downloaded", outcome]))  # type: ignore[arg-type]
            elif a.state == "succeeded" and chance.random() < bad / 50:
                world.move(a.device, "rolled_back")
        world.now += chance.choice([1, 20, 60])
        _check(world, set(targets or names))


def _check(world: World, allowed: set[str]) -> None:
    policy = world.rollout.policy
    assert set(world.chosen) <= allowed, "assigned outside of the target set"
    assert len(world.chosen) == len(set(world.chosen)), "a device was assigned twice"
    for before, stage in world.stages_left:
        failed = [a for a in before.assignments if a.state == "failed"]
        answered = [a for a in before.assignments if a.state not in ("late", "withdrawn")]
        good = [a for a in before.assignments if a.state == "succeeded"]
        assert len(failed) <= policy.max_failures, f"stage {stage} was left over failures"
        assert 100 * len(good) >= policy.success_percent * len(answered)
        assert good, f"stage {stage} was left without one success"
    if world.rollout.state in ("aborted", "paused"):
        count = len(world.chosen)
        assert not any(
            isinstance(action, Choose | Offer)
            for action in plan(world.rollout, world.fleet, world.now)
        ), f"{count} devices were assigned and the rollout has stopped, yet goes on"
