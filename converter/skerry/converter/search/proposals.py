"""What to try next: Optuna's tree-structured Parzen estimator, from finished trials alone.

Each proposal has a sampler of its own, seeded by the search's seed and the proposal's number, that
is told what earlier waves gave, in the order of their numbers. So the same trials are proposed
however many workers there are, and whether or not the search was killed in between.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, create_trial

from skerry.converter.search.budget import Budget
from skerry.converter.search.journal import Entry
from skerry.converter.search.space import Choices, Domain, Space

__all__ = ["propose"]

_STARTUP_TRIALS = 8  # at random, before there is anything to learn from
_STREAM = 1_000_003  # a prime, so that waves of different seeds do not meet


def propose(
    space: Space, finished: Sequence[Entry], budgets: Sequence[Budget], seed: int, draw: int
) -> dict[str, Any]:
    """Values for one trial.

    Args:
        finished: the last entry of each trial of earlier waves, in the order of their numbers.
        seed, draw: of the search, and of this proposal; the same give the same values.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _asked(space, finished, budgets, (seed * _STREAM + draw) % 2**32)


def _asked(
    space: Space, finished: Sequence[Entry], budgets: Sequence[Budget], seed: int
) -> dict[str, Any]:
    sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True
    )
    study = optuna.create_study(directions=["minimize", "minimize", "maximize"], sampler=sampler)
    distributions = {key: _distribution(domain) for key, domain in space.items()}
    for entry in finished:
        told = _told(entry, space, distributions, budgets)
        if told is not None:
            study.add_trial(told)
    asked = study.ask(distributions)
    return {key: _value(domain, asked.params[key]) for key, domain in space.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    """Choices are asked for by number, since they may be of any kind."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(range(len(domain.values)))
    if domain.whole:
        step = 1 if domain.step is None else int(domain.step)
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _value(domain: Domain, asked: Any) -> Any:
    if isinstance(domain, Choices):
        return domain.values[asked]
    # Four digits are enough to tell recipes apart, and to write them down.
    return int(asked) if domain.whole else float(f"{asked:.4g}")


def _told(
    entry: Entry,
    space: Space,
    distributions: Mapping[str, BaseDistribution],
    budgets: Sequence[Budget],
) -> FrozenTrial | None:
    """A finished trial as Optuna knows it; None where its values lie outside the space."""
    params = {}
    for key, domain in space.items():
        if key not in entry.values:
            return None
        value = entry.values[key]
        if isinstance(domain, Choices):
            if value not in domain.values:
                return None
            value = domain.values.index(value)
        elif not domain.holds(value):
            return None
        params[key] = value
    if entry.merit is None:
        return create_trial(
            state=optuna.trial.TrialState.FAIL, params=params, distributions=dict(distributions)
        )
    merit = entry.merit
    return create_trial(
        values=[merit.bytes, merit.latency_ms, merit.metric],
        params=params,
        distributions=dict(distributions),
        constraints={budget.kind: budget.excess(merit) for budget in budgets},
    )
