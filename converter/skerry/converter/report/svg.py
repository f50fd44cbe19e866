"""Plots as inline SVG: a few shapes and words, no script, no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

__all__ = ["Bar", "bars", "confusion", "curve", "histogram"]

_WIDTH, _LABEL, _VALUE = 760, 230, 150
_ROW, _THICK = 28, 16
_SHOWN_LABEL, _SHORT_LABEL = 14, 4  # letters that fit beside and above a confusion


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, the words at its end, and its kind (a CSS class)."""

    name: str
    value: float
    text: str
    kind: str = "artifact"


def bars(rows: Sequence[Bar], least: float = 0.0) -> Markup:
    """Horizontal bars that begin at `least`."""
    longest = max((row.value - least for row in rows), default=0.0) or 1.0
    span = _WIDTH - _LABEL - _VALUE
    parts = []
    for number, row in enumerate(rows):
        top = number * _ROW
        length = max(1.0, span * max(0.0, row.value - least) / longest)
        middle = top + _ROW / 2 + 4
        parts.append(
            f'<text x="{_LABEL - 10}" y="{middle:.0f}" class="name">{escape(row.name)}</text>'
            f'<rect x="{_LABEL}" y="{top + (_ROW - _THICK) / 2:.0f}" width="{length:.1f}" '
            f'height="{_THICK}" rx="3" class="{escape(row.kind)}"/>'
            f'<text x="{_LABEL + length + 8:.1f}" y="{middle:.0f}">{escape(row.text)}</text>'
        )
    height = max(1, len(rows)) * _ROW
    return _svg("bars", _WIDTH, height, parts)


def curve(values: Sequence[float]) -> Markup:
    """A line through values at even steps, from the left to the right."""
    width, height, margin = 220, 48, 4
    if len(values) < 2:
        return Markup("")
    low, high = min(values), max(values)
    scale = (height - 2 * margin) / ((high - low) or 1.0)
    step = (width - 2 * margin) / (len(values) - 1)
    points = " ".join(
        f"{margin + i * step:.1f},{height - margin - (value - low) * scale:.1f}"
        for i, value in enumerate(values)
    )
    return _svg("curve", width, height, [f'<polyline points="{points}"/>'])


def histogram(
    counts: Sequence[int], edges: tuple[float, float], chosen: tuple[float, float]
) -> Markup:
    """Counts on a logarithmic scale, those outside `chosen` in another colour.

    Args:
        edges: the outer edges of the bins.
        chosen: the range that is kept; its ends are marked.
    """
    width, height, foot = 232, 64, 16
    least, most = edges
    tall = [float(np.log1p(count)) for count in counts]
    highest = max(tall, default=0.0) or 1.0
    each = width / max(1, len(counts))
    span = (most - least) or 1.0
    parts = []
    for number, one in enumerate(tall):
        middle = least + (number + 0.5) * span / len(counts)
        kind = "artifact" if chosen[0] <= middle <= chosen[1] else "wrong"
        top = height * (1 - one / highest)
        parts.append(
            f'<rect x="{number * each:.1f}" y="{top:.1f}" width="{max(0.5, each - 0.5):.1f}" '
            f'height="{height - top:.1f}" class="{kind}"/>'
        )
    for end in chosen:
        x = width * (end - least) / span
        if 0 <= x <= width:
            parts.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height}"/>')
    parts.append(f'<text x="0" y="{height + foot - 3}">{least:.3g}</text>')
    parts.append(f'<text x="{width}" y="{height + foot - 3}" class="name">{most:.3g}</text>')
    return _svg("histogram", width, height + foot, parts)


def confusion(counts: NDArray[Any], labels: Sequence[str]) -> Markup:
    """True classes down, answers across; the darker, the more.

    Args:
        counts: integers [classes, classes].
    """
    cell, left, top = 30, 110, 26
    size = len(labels)
    most = max(1, int(np.max(counts, initial=1)))
    parts = []
    for row, label in enumerate(labels):
        y = top + row * cell
        name, short = escape(label[:_SHOWN_LABEL]), escape(label[:_SHORT_LABEL])
        parts.append(f'<text x="{left - 8}" y="{y + 20}" class="name">{name}</text>')
        x = left + row * cell + cell / 2
        parts.append(f'<text x="{x:.0f}" y="{top - 8}" class="centre">{short}</text>')
        parts += [
            _cell(left + column * cell, y, cell, int(counts[row, column]), most, row == column)
            for column in range(size)
        ]
    return _svg("confusion", left + size * cell + 4, top + size * cell + 4, parts)


def _cell(x: int, y: int, size: int, count: int, most: int, right: bool) -> str:
    shade = 0.0 if count == 0 else 0.15 + 0.85 * (count / most if right else min(1.0, count / 5))
    kind = "right" if right else "wrong"
    words = (
        f'<text x="{x + size / 2:.0f}" y="{y + 20}" class="centre">{count}</text>' if count else ""
    )
    box = f'<rect x="{x}" y="{y}" width="{size - 2}" height="{size - 2}" rx="2"'
    return f'{box} class="empty"/>{box} class="{kind}" fill-opacity="{shade:.2f}"/>{words}'


def _svg(kind: str, width: float, height: float, parts: Sequence[str]) -> Markup:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
    body = "".join(parts)
    return Markup(f'<svg class="{kind}" {size} role="img">{body}</svg>')  # noqa: S704 - escaped above
