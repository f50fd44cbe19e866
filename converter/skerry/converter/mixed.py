"""Mixed precision: which layers are raised, to what, until the gate holds. Pure rules.

What a layer does to the task is seen by rounding it alone. The worst are raised first, each to the
cheapest level at which it is no noisier than the middle layer; where that is not enough, the
noisiest of them go on to the next level.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec

from skerry.converter.emit.support import Level

__all__ = ["Finding", "LayerChoice", "Step", "choices", "climb", "fewest", "moves", "worst_first"]

Step = tuple[Level, float]  # a level, and the SNR of the outputs in dB with one layer alone there


class Finding(msgspec.Struct, frozen=True):
    """What rounding one layer alone does.

    Attributes:
        layer, operation: its name, and such as `conv2d`.
        snr_db: signal-to-noise ratio of the model's outputs with this layer alone in int8.
        effect: points of the metric that are lost by it.
    """

    layer: str
    operation: str
    snr_db: float
    effect: float


class LayerChoice(msgspec.Struct, frozen=True):
    """A finding and what was decided: a row of the report's table.

    Attributes:
        level: `int8`, `int16` (activations; weights int8), `fp16` or `fp32`.
        level_db: as `snr_db`, at that level.
    """

    layer: str
    operation: str
    snr_db: float
    effect: float
    level: Level
    level_db: float


def worst_first(findings: Sequence[Finding], doubt: float) -> tuple[Finding, ...]:
    """The order in which layers are raised.

    By what they cost in points, where that is beyond doubt; the others by their noise, which is
    seen more finely.

    Args:
        doubt: points of the metric that so few rows cannot tell from nothing.
    """

    def harm(finding: Finding) -> tuple[float, float]:
        return (-finding.effect if finding.effect > doubt else 0.0, finding.snr_db)

    return tuple(sorted(findings, key=harm))


def climb(
    finding: Finding,
    findings: Sequence[Finding],
    levels: Sequence[Level],
    noise_at: Callable[[Level], float],
) -> tuple[Step, ...]:
    """The levels a layer may be raised to, from the cheapest that is worth it.

    That is the first at which it is no noisier than the middle layer, or else the last.

    Args:
        levels: those allowed, the cheapest first; not empty.
        noise_at: SNR of the outputs, in dB, with this layer alone at a level.
    """
    enough = statistics.median(one.snr_db for one in findings)
    steps = [(level, noise_at(level)) for level in levels]
    good = [n for n, (_, noise) in enumerate(steps) if noise > finding.snr_db and noise >= enough]
    return tuple(steps[good[0] if good else -1 :])


def moves(steps: Mapping[str, Sequence[Step]]) -> tuple[tuple[str, Step], ...]:
    """One layer raised after the other, and then the noisiest of them one level more, to the end.

    Args:
        steps: what `climb` gives for each layer, the worst first.
    """
    made = [(layer, climbed[0]) for layer, climbed in steps.items()]
    at = dict.fromkeys(steps, 0)
    while open_ := [layer for layer, number in at.items() if number + 1 < len(steps[layer])]:
        noisiest = min(open_, key=lambda layer: steps[layer][at[layer]][1])
        at[noisiest] += 1
        made.append((noisiest, steps[noisiest][at[noisiest]]))
    return tuple(made)


def fewest(most: int, holds: Callable[[int], bool]) -> int | None:
    """The fewest of 0 … most moves with which the gate holds, or None where none does.

    It takes holding for monotone, and so asks for about 2 log2(most) of them.
    """
    if holds(0):
        return 0
    low, high = 0, min(1, most)
    while high > low and not holds(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    if high == low:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def choices(findings: Sequence[Finding], raised: Mapping[str, Step]) -> tuple[LayerChoice, ...]:
    """The table: every layer and what was decided.

    Args:
        raised: level and SNR there, by the layer's name.
    """
    return tuple(
        LayerChoice(
            one.layer,
            one.operation,
            one.snr_db,
            one.effect,
            *raised.get(one.layer, ("int8", one.snr_db)),
        )
        for one in findings
    )
