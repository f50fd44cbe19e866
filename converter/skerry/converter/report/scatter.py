"""Points on two axes as inline SVG: what candidates cost against what they reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Dot", "scatter"]

_WIDTH, _HEIGHT = 480, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 46
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Dot:
    """One point: where it is, its words, its kind (a CSS class), and where it leads."""

    x: float
    y: float
    name: str
    kind: str
    link: str = ""


def scatter(
    dots: Sequence[Dot],
    axes: tuple[str, str],
    tick: Callable[[float], str],
    line: Sequence[Dot] = (),
    limits: tuple[float | None, float | None] = (None, None),
) -> Markup:
    """Dots, the more to the upper left the better.

    Args:
        axes: words for x and y.
        tick: how a number on the x axis is written.
        line: dots to join, from the left to the right: the front.
        limits: budgets on x (at most) and y (at least).
    """
    if not dots:
        return Markup("")
    x_low, x_high = _ends([dot.x for dot in dots], limits[0])
    y_low, y_high = _ends([dot.y for dot in dots], limits[1])

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (y_high - y) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return across, down

    left, bottom = at(x_low, y_low)
    right, top = at(x_high, y_high)
    parts = []
    for value in _ticks(y_low, y_high):
        _, y = at(x_low, value)
        parts.append(_line("axis", left, y, right, y))
        label = f"{value:.4g}"
        parts.append(f'<text x="{left - 8:.0f}" y="{y + 4:.1f}" class="tick end">{label}</text>')
    for value in _ticks(x_low, x_high):
        x, _ = at(value, y_low)
        words = escape(tick(value))
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18:.0f}" class="tick centre">{words}</text>')
    if limits[0] is not None:
        x, _ = at(limits[0], y_low)
        parts.append(_line("limit", x, top, x, bottom))
    if limits[1] is not None:
        _, y = at(x_low, limits[1])
        parts.append(_line("limit", left, y, right, y))
    if len(line) > 1:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(dot.x, dot.y) for dot in line))
        parts.append(f'<polyline points="{points}"/>')
    parts += [_dot(dot, *at(dot.x, dot.y)) for dot in dots]
    middle = (left + right) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" class="tick centre">{escape(axes[0])}</text>'
        f'<text x="{left + 6:.0f}" y="{top + 12:.0f}" class="tick">{escape(axes[1])}</text>'
    )
    body = "".join(parts)
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
    return Markup(f'<svg class="scatter" {size} role="img">{body}</svg>')  # noqa: S704 - escaped above


def _dot(dot: Dot, x: float, y: float) -> str:
    radius = 7 if dot.kind == "best" else 5
    words = escape(dot.name)
    circle = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{escape(dot.kind)}">'
        f"<title>{words}</title></circle>"
    )
    return f'<a href="{escape(dot.link)}">{circle}</a>' if dot.link else circle


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _ends(values: Sequence[float], limit: float | None) -> tuple[float, float]:
    """The least and the largest value to show, with room around them."""
    shown = [*values, *([] if limit is None else [limit])]
    low, high = min(shown), max(shown)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, about `_TICKS` of them."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]
