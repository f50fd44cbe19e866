"""Work on two pieces at once, and take each result in its turn.

numpy and zstd leave the interpreter to others while they compute, so that two threads are worth
more than one. What comes out is the same whatever the number of threads; there are never more than
two pieces in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

from skerry.devices.cpus import usable_cpus

__all__ = ["in_turn"]

_T = TypeVar("_T")
_AT_ONCE = 2


def in_turn(jobs: Iterable[Callable[[], _T]]) -> Iterator[_T]:
    """What each job returns, in order.

    Args:
        jobs: asked for one after the other, as there is room for them.

    Raises:
        Exception: whatever a job raises, in its turn.
    """
    left = iter(jobs)
    first = list(islice(left, _AT_ONCE))
    if len(first) < _AT_ONCE or usable_cpus().at_once < _AT_ONCE:
        for job in chain(first, left):
            yield job()
        return
    with ThreadPoolExecutor(_AT_ONCE, "delta") as pool:
        waiting = deque(pool.submit(job) for job in first)
        first.clear()
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(job) for job in islice(left, 1))
        finally:
            for future in waiting:
                future.cancel()
