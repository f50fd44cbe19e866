"""Where a model's calls run, and in what company: rules over what its warm-up measured."""

from __future__ import annotations

import msgspec

from skerry.runtime.prepared import Prepared
from skerry.runtime.serve.limits import ServeLimits

__all__ = ["Placement", "batch_rows", "place", "runs_inline", "share"]


class Placement(msgspec.Struct, frozen=True):
    """What was chosen for a model, and why.

    Attributes:
        inline: on the event loop; else on one of the threads.
        batch_rows: the longest batch that waiting calls are joined to; 1 where none are.
        why: in words.
    """

    inline: bool
    batch_rows: int
    why: str


def runs_inline(release: Prepared, limits: ServeLimits, rows: int = 1) -> bool:
    """Whether a call of so many rows runs on the event loop: where handing it to a thread would
    cost more than it gains. An engine in another process may take its whole limit, and never
    does."""
    seconds = release.row_seconds if rows == 1 else release.call_seconds(rows)
    return seconds <= limits.inline_s and not release.isolated


def batch_rows(release: Prepared, limits: ServeLimits) -> int:
    """The longest batch that waiting calls are joined to; 1 where joining does not pay, or where
    one call would change another's answer."""
    return release.joined_rows(limits.batch_rows, limits.batch_gain)


def share(under_way: int, threads: int) -> int:
    """How many of the calls under way one thread takes, so that the others have their part."""
    return max(1, -(-under_way // threads))


def place(release: Prepared, limits: ServeLimits) -> Placement:
    """What is chosen for `release`."""
    row_us, gain = release.row_seconds * 1e6, release.batch_gain
    if runs_inline(release, limits):
        least = limits.inline_s * 1e6
        return Placement(
            True, 1, f"a row takes {row_us:.0f} us; threads pay from {least:.0f} us on"
        )
    why = f"{gain:.2f} times faster in a batch; joining pays from {limits.batch_gain:g} times on"
    if not release.independent:
        why = "and the rows of one batch change each other's answers: none are joined"
    return Placement(False, batch_rows(release, limits), f"a row takes {row_us:.0f} us, {why}")
