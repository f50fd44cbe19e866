"""Where trials run: in this process, in processes of their own, or on a cluster.

All take a function of bytes and give a future of bytes, so a search does not know which it has.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Protocol

from skerry.devices.errors import InputError, MissingExtraError, UnavailableError

__all__ = ["Call", "Cluster", "Here", "Processes", "Workers", "open_workers"]

_CONNECT_SECONDS = 30
_MOST_JOBS = 256
Call = Callable[[bytes], bytes]


class Workers(Protocol):
    """Runs calls, some at a time.

    Attributes:
        losses: what a future raises where the worker was lost, not the call wrong.
    """

    losses: tuple[type[BaseException], ...]

    def submit(self, call: Call, argument: bytes) -> Future[bytes]:
        """Begin a call, or queue it."""
        ...

    def stop(self) -> None:
        """End at once, whatever is running."""
        ...


class Here:
    """One call at a time, in this process."""

    losses: tuple[type[BaseException], ...] = ()

    def submit(self, call: Call, argument: bytes) -> Future[bytes]:
        """Run the call before returning."""
        future: Future[bytes] = Future()
        future.set_result(call(argument))
        return future

    def stop(self) -> None:
        """There is nothing running between calls."""


class Processes:
    """Processes that stay warm: what a framework costs to load is paid once by each.

    They end with the process that began them, even where that one is killed.

    Args:
        jobs: how many.
    """

    losses: tuple[type[BaseException], ...] = (BrokenExecutor,)

    def __init__(self, jobs: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)

    def submit(self, call: Call, argument: bytes) -> Future[bytes]:
        """Queue the call for the next free process."""
        return self._pool.submit(call, argument)

    def stop(self) -> None:
        """Kill the processes; what they had not finished is done again another time."""
        for process in list((self._pool._processes or {}).values()):  # they have no public name
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


class Cluster:
    """A Dask cluster whose workers see this machine's files under the same paths.

    Args:
        address: of its scheduler, such as `tcp://host:8786`.
        patience: seconds to wait for its answer.

    Raises:
        MissingExtraError: Dask is not installed.
        UnavailableError: there is no scheduler at that address.
    """

    def __init__(self, address: str, patience: float = _CONNECT_SECONDS) -> None:
        try:
            import distributed
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "cluster", missing=error.name or "distributed", needed_by="skerry search --cluster"
            ) from error
        try:
            self._client = distributed.Client(address, timeout=patience, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise UnavailableError(
                f"no Dask scheduler answers: {str(error).splitlines()[0]}",
                where=address,
                remedy="start one with `dask scheduler`, and workers with `dask worker`",
            ) from error
        self.losses: tuple[type[BaseException], ...] = (distributed.KilledWorker, CancelledError)
        self._pool = self._client.get_executor(pure=False, retries=1)

    def submit(self, call: Call, argument: bytes) -> Future[bytes]:
        """Hand the call to the scheduler."""
        future: Future[bytes] = self._pool.submit(call, argument)
        return future

    def stop(self) -> None:
        """Withdraw what is not finished, and leave the cluster."""
        self._pool.shutdown(wait=False)
        self._client.close(timeout=_CONNECT_SECONDS)


@contextmanager
def open_workers(jobs: int, cluster: str) -> Iterator[Workers]:
    """The workers that the options ask for, stopped when the block ends.

    Args:
        jobs: processes on this machine; 1 works in this one.
        cluster: address of a Dask scheduler, or empty.

    Raises:
        InputError: there cannot be so many.
    """
    if not 1 <= jobs <= _MOST_JOBS:
        raise InputError(f"{jobs} jobs", where="--jobs", remedy=f"give 1 to {_MOST_JOBS}")
    workers: Workers = Cluster(cluster) if cluster else Here() if jobs == 1 else Processes(jobs)
    try:
        yield workers
    finally:
        workers.stop()


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from skerry.converter.quiet import quieten

    quieten()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(0)
