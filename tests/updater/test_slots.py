"""The table of an update's states: every step that is allowed, and what a restart makes of each."""

import itertools
import typing

import msgspec
import pytest

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import SkerryError
from skerry.devices.ids import ModelName, ReleaseId
from skerry.updater.store import slots as rules
from skerry.updater.store.slots import TRANSITIONS, Situation, State, Step


def _blob(text: str) -> Descriptor:
    return Descriptor(Digest.of(text.encode()), len(text))


def _release(counter: int) -> ReleaseId:
    return ReleaseId(ModelName("m"), counter)


def _begin(now: Situation, counter: int) -> Situation:
    now = rules.begun(now, _release(counter), f"v{counter}", _blob(f"manifest {counter}"), 1.0)
    return rules.planned(now, "onnx-int8", (rules.reference(_blob(f"weights {counter}")),))


def _install(now: Situation, counter: int) -> Situation:
    now = rules.tried(rules.fetched(_begin(now, counter)))
    return rules.reported(rules.committed(now))


RUNNING = _install(_install(Situation(), 1), 2)
FETCHING = _begin(RUNNING, 3)
CANDIDATE = rules.fetched(FETCHING)
TRIAL = rules.tried(CANDIDATE)
COMMITTED = rules.committed(TRIAL)
FAILED = rules.failed(TRIAL, "rolled_back", "it failed")
EVERY = {
    "fetching": FETCHING,
    "candidate": CANDIDATE,
    "trial": TRIAL,
    "committed": COMMITTED,
    "failed": FAILED,
}
STEPS = {
    "fetched": rules.fetched,
    "try": rules.tried,
    "interrupt": rules.postponed,
    "commit": rules.committed,
    "fail": lambda now: rules.failed(now, "refused", "why"),
    "abandon": rules.abandoned,
    "reported": rules.reported,
}


def _releases(now: Situation) -> list[str]:
    slots = (now.slots.active, now.slots.previous, now.slots.candidate)
    return [slot.release if slot else "" for slot in slots]


@pytest.mark.parametrize(
    ("state", "step"), list(itertools.product(typing.get_args(State), typing.get_args(Step)))
)
def test_the_table_alone_decides_what_may_follow(state: State, step: Step) -> None:
    now = EVERY[state]
    if (state, step) not in TRANSITIONS:
        with pytest.raises(SkerryError, match="cannot"):
            STEPS[step](now)
        return
    after = STEPS[step](now)
    wanted = TRANSITIONS[state, step]
    assert (after.update and after.update.state) == wanted


def test_commit_moves_every_slot_at_once() -> None:
    assert _releases(TRIAL) == ["m/2", "m/1", "m/3"]
    assert _releases(COMMITTED) == ["m/3", "m/2", ""]


def test_failure_and_abandon_leave_what_runs() -> None:
    assert _releases(FAILED) == _releases(rules.abandoned(CANDIDATE)) == ["m/2", "m/1", ""]
    assert FAILED.slots.failure(_release(3)).reason == "it failed"
    assert rules.abandoned(CANDIDATE).slots.failure(_release(3)) is None


def test_one_update_at_a_time() -> None:
    with pytest.raises(SkerryError, match="cannot begin"):
        _begin(FETCHING, 4)


@pytest.mark.parametrize("state", list(EVERY))
def test_a_restart_between_the_two_writes_of_a_step_finds_the_step(state: State) -> None:
    """Slots are written first: every pair (new slots, old journal) must mean the new state,
    or one from which the update goes on to the same end."""
    after = EVERY[state]
    before = {
        "fetching": RUNNING,
        "candidate": FETCHING,
        "trial": CANDIDATE,
        "committed": TRIAL,
        "failed": TRIAL,
    }[state]
    torn = rules.recovered(Situation(after.slots, before.update))
    expected = {"fetching": None, "trial": "candidate"}.get(state, state)
    assert (torn.update and torn.update.state) == expected
    assert _releases(torn)[:2] == _releases(after)[:2]
    if state == "failed":
        assert torn.update == after.update


def test_a_restart_in_a_trial_goes_back_to_the_candidate_and_counts() -> None:
    now = rules.recovered(TRIAL)
    assert now.update.state == "candidate"
    assert now.update.attempts == 1
    assert rules.tried(now).update.attempts == 2
    assert rules.postponed(TRIAL).update.attempts == 0


def test_a_torn_abandon_is_abandoned() -> None:
    gone = rules.abandoned(CANDIDATE)
    torn = rules.recovered(Situation(gone.slots, CANDIDATE.update))
    assert torn.update.state == "fetching"
    assert rules.abandoned(torn).update is None
    orphan = rules.recovered(Situation(CANDIDATE.slots, None))
    assert orphan.slots.candidate is None


def test_recovery_is_idempotent() -> None:
    situations = [Situation(a.slots, b.update) for a in EVERY.values() for b in EVERY.values()]
    for now in situations:
        once = rules.recovered(now)
        assert rules.recovered(once) == once


def test_everything_a_slot_or_the_update_needs_is_named() -> None:
    texts = {f"{what} {n}" for what in ("manifest", "weights") for n in (1, 2, 3)}
    assert rules.named(CANDIDATE) == {Digest.of(text.encode()) for text in texts}
    assert rules.named(FETCHING) == rules.named(CANDIDATE)
    assert Digest.of(b"weights 1") not in rules.named(COMMITTED)


def test_only_so_many_failures_are_remembered() -> None:
    now = RUNNING
    for counter in range(3, 3 + rules.MAX_REMEMBERED + 5):
        now = rules.reported(rules.failed(_begin(now, counter), "refused", "bad"))
    assert len(now.slots.bad) == rules.MAX_REMEMBERED
    assert now.slots.failure(_release(3)) is None
    assert now.slots.failure(_release(30)) is not None


def test_falling_back_needs_a_previous_release() -> None:
    back = rules.fallen_back(RUNNING, "it no longer loads")
    assert _releases(back) == ["m/1", "", ""]
    assert back.slots.failure(_release(2)) is not None
    with pytest.raises(SkerryError, match="no previous"):
        rules.fallen_back(back, "again")


def test_slots_and_journal_round_trip() -> None:
    for now in EVERY.values():
        for value in (now.slots, now.update):
            data = msgspec.json.encode(value)
            assert msgspec.json.decode(data, type=type(value)) == value
