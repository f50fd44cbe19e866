"""Which patches a rollout needs: rules over what the fleet runs and which patches there are."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from itertools import count

from skerry.updater.server.records import Delta

__all__ = ["cheapest_way", "most_run"]


def most_run(active: Iterable[str]) -> list[str]:
    """The releases that devices run, those that most of them run first.

    Args:
        active: for each device what it runs, or "".
    """
    devices = Counter(release for release in active if release)
    return sorted(devices, key=lambda release: (-devices[release], release))


def cheapest_way(known: Iterable[Delta], base: str, new: str, links: int) -> tuple[Delta, ...]:
    """The patches that lead from `base` to `new` over other blobs in the fewest bytes.

    Args:
        known: every patch that was made; those from `base` to `new` itself are left out.
        base, new: digests of blobs.
        links: most patches on the way.

    Returns:
        At least two, or none where there is no way.
    """
    onward: dict[str, list[Delta]] = {}
    for delta in known:
        if delta.patch and (delta.base, delta.new) != (base, new):
            onward.setdefault(delta.base, []).append(delta)
    order, reached = count(), {(base, 0): 0}
    queue: list[tuple[int, int, str, tuple[Delta, ...]]] = [(0, next(order), base, ())]
    while queue:
        size, _, at, way = heapq.heappop(queue)
        if at == new:
            return way
        if len(way) == links:
            continue
        for delta in onward.get(at, ()):
            total, place = size + delta.patch_bytes, (delta.new, len(way) + 1)
            if total < reached.get(place, total + 1):
                reached[place] = total
                heapq.heappush(queue, (total, next(order), delta.new, (*way, delta)))
    return ()
