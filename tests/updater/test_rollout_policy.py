import pytest

from skerry.devices.errors import InputError
from skerry.updater.rollout import Policy, Stage, read_policy


def test_the_default_is_one_canary_then_the_rest() -> None:
    policy = read_policy({}, where="policy.toml")
    assert [stage.name for stage in policy.stages] == ["canary", "rest"]
    assert [stage.reach(40) for stage in policy.stages] == [1, 40]
    assert policy.max_failures == 0


@pytest.mark.parametrize(
    ("percent", "targets", "reach"), [(10, 25, 3), (50, 2, 1), (1, 3, 1), (100, 7, 7), (30, 10, 3)]
)
def test_a_percentage_is_rounded_up(percent: float, targets: int, reach: int) -> None:
    assert Stage("s", percent=percent).reach(targets) == reach


def test_a_count_never_reaches_further_than_the_fleet() -> None:
    assert Stage("s", count=10).reach(3) == 3


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"stage": []}, "stage"),
        ({"stages": []}, "stages"),
        ({"stages": [{"name": "a"}]}, "needs one of"),
        ({"stages": [{"name": "a", "count": 1, "percent": 5}]}, "needs one of"),
        ({"stages": [{"name": "a", "percent": 101}]}, "percent"),
        ({"success_percent": 0}, "success_percent"),
        ({"gates": {"errors": 1}}, "errors"),
        ({"on_failure": "shrug"}, "on_failure"),
        ([], "object"),
    ],
)
def test_a_wrong_policy_is_refused_by_the_name_of_its_key(document: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        read_policy(document, where="policy.toml")


def test_a_stage_may_soak_for_its_own_time() -> None:
    policy = Policy(stages=(Stage("a", count=1, soak_s=5), Stage("b", percent=100)), soak_s=60)
    assert [policy.soak_of(0), policy.soak_of(1)] == [5, 60]
