"""Threads that are made here run on some CPUs alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from skerry.devices.errors import InputError


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """Let the calling thread, and every thread that it makes meanwhile, run on `cpus` alone.

    A thread inherits the affinity of its maker: so an engine's own threads stay on `cpus` for
    good, while the calling thread is let go again. Nothing is done where `cpus` is empty.

    Raises:
        InputError: one of them is not for this process to use.
    """
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    pin(cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(cpus: Sequence[int]) -> None:
    """As `pinned`, for good."""
    allowed = os.sched_getaffinity(0)
    if foreign := sorted(set(cpus) - allowed):
        raise InputError(
            f"CPU {foreign[0]} is not one this process may use",
            where="cpus",
            remedy=f"it may use {', '.join(map(str, sorted(allowed)))}",
        )
    os.sched_setaffinity(0, cpus)
