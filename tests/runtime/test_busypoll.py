"""When a server stays awake after an answer, and when it sleeps."""

from collections.abc import Callable

import pytest

from fakes.clock import FakeClock
from skerry.runtime.serve.busypoll import BusyPoll

WINDOW = 0.001


class Loop:
    """Takes what shall be done at its next turn."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def call_soon(self, work: Callable[[], object]) -> None:
        self.waiting.append(work)

    def turn(self) -> None:
        """Do what waits."""
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()

    @property
    def awake(self) -> bool:
        """Whether the next turn comes without sleep."""
        return bool(self.waiting)


class Server:
    """A loop, its busy poll and its clock."""

    def __init__(self, window: float = WINDOW) -> None:
        self.loop, self.clock, self.alone = Loop(), FakeClock(), True
        self.poll = BusyPoll(self.loop.call_soon, window, lambda: self.alone, self.clock.monotonic)

    def ask(self, after: float) -> None:
        """A request, so long after what was before, and its answer."""
        self.clock.advance(after)
        self.loop.turn()
        self.poll.arrived()
        self.poll.answered()


@pytest.fixture
def server() -> Server:
    return Server()


def test_requests_that_follow_closely_keep_it_awake_for_one_window(server: Server) -> None:
    server.ask(1.0)
    assert not server.loop.awake
    server.ask(WINDOW / 2)
    for _ in range(3):
        server.ask(WINDOW / 2)
        assert len(server.loop.waiting) == 1  # one poll, however many answers
    server.clock.advance(WINDOW * 1.5)
    server.loop.turn()
    assert not server.loop.awake


def test_requests_far_apart_never_do(server: Server) -> None:
    for _ in range(5):
        server.ask(WINDOW * 1.5)
        assert not server.loop.awake


def test_other_threads_are_left_alone(server: Server) -> None:
    server.ask(0.0)
    server.alone = False
    server.ask(WINDOW / 2)
    assert not server.loop.awake
    server.alone = True
    server.ask(WINDOW / 2)
    assert server.loop.awake
    server.alone = False
    server.loop.turn()
    assert not server.loop.awake


def test_without_a_window_it_sleeps_at_once() -> None:
    server = Server(0.0)
    for _ in range(3):
        server.ask(0.0)
        assert not server.loop.awake
