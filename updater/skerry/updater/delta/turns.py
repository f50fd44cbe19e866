"""Work on the next piece while the last one is put in its place.

One thread computes, and the caller's own hashes and writes: these leave the interpreter to others
for a millisecond at a time. Two threads that both compute would not: numpy takes the interpreter
back after each operation of microseconds, and two that wait for each other at each of them are
slower than one. What comes out is the same with and without the second thread; there are never
more than two pieces in memory.
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
_HELD = 2


def in_turn(
    jobs: Iterable[Callable[[], _T]], meanwhile: Callable[[], None] = lambda: None
) -> Iterator[_T]:
    """What each job returns, in order.

    Args:
        jobs: asked for one after the other, as there is room for them.
        meanwhile: done before the first result, beside the first job.

    Raises:
        Exception: whatever `meanwhile` raises, and then what a job raises, in its turn.
    """
    left = iter(jobs)
    first = list(islice(left, _HELD))
    if len(first) < _HELD or usable_cpus().at_once < 2:
        meanwhile()
        for job in chain(first, left):
            yield job()
        return
    with ThreadPoolExecutor(1, "delta") as pool:
        waiting = deque(pool.submit(job) for job in first)
        first.clear()
        try:
            meanwhile()
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(job) for job in islice(left, 1))
        finally:
            for future in waiting:
                future.cancel()
