import os
import signal
import subprocess
import sys

import pytest

from fakes.clock import FakeClock
from skerry.devices.errors import InputError
from skerry.telemetry.outbox import Outbox, OutboxLimits, Priority

BOOT, LATER = "0" * 16, "1" * 16


def seqs(outbox, count=1000):
    return [message.seq for message in outbox.peek(count)]


def test_the_important_goes_first_and_then_the_old(tmp_path):
    outbox = Outbox(tmp_path / "o.db", BOOT)
    outbox.put("window", b"w1", priority=Priority.WINDOW)
    outbox.put("event", b"e1", priority=Priority.EVENT)
    outbox.put_many([("window", b"w2", Priority.WINDOW), ("event", b"e2", Priority.EVENT)])
    assert [m.body for m in outbox.peek(10)] == [b"e1", b"e2", b"w1", b"w2"]
    assert [m.body for m in outbox.peek(2, skip={2})] == [b"e2", b"w1"]


def test_only_what_was_stored_is_freed(tmp_path):
    outbox = Outbox(tmp_path / "o.db", BOOT)
    for n in range(6):
        outbox.put("window", b"%d" % n, priority=Priority.WINDOW)
    assert outbox.ack(BOOT, [(2, 3), (6, 2**62)]) == 3
    assert outbox.ack(LATER, [(1, 100)]) == 0
    assert seqs(outbox) == [1, 4, 5]


def test_numbers_are_never_used_again(tmp_path):
    outbox = Outbox(tmp_path / "o.db", BOOT)
    outbox.put("event", b"x", priority=Priority.EVENT)
    outbox.ack(BOOT, [(1, 1)])
    outbox.close()
    assert Outbox(tmp_path / "o.db", LATER).put("event", b"y", priority=Priority.EVENT) == 2


def test_full_it_loses_the_oldest_of_the_least_important_and_says_so(tmp_path):
    outbox = Outbox(tmp_path / "o.db", BOOT, OutboxLimits(bytes=5 * 164))
    outbox.put("event", bytes(100), priority=Priority.EVENT)
    for _ in range(6):
        outbox.put("window", bytes(100), priority=Priority.WINDOW)
    assert seqs(outbox) == [1, 4, 5, 6, 7]
    outbox.put_many([("event", bytes(100), Priority.EVENT)] * 5)
    assert seqs(outbox) == [8, 9, 10, 11, 12]
    assert outbox.dropped == 7
    outbox.close()
    assert Outbox(tmp_path / "o.db", LATER).dropped == 7


def test_what_is_too_old_goes_but_a_clock_that_was_not_set_takes_nothing_away(tmp_path):
    clock = FakeClock(now=100.0)
    outbox = Outbox(tmp_path / "o.db", BOOT, OutboxLimits(seconds=3600), clock)
    outbox.put("window", b"1970", priority=Priority.WINDOW)
    clock.jump(1_800_000_000)
    outbox.put("window", b"today", priority=Priority.WINDOW)
    outbox.put("event", b"event", priority=Priority.EVENT)
    outbox.close()
    outbox = Outbox(tmp_path / "o.db", LATER, OutboxLimits(seconds=3600), clock)
    clock.jump(4000)
    outbox.put("window", b"later", priority=Priority.WINDOW)
    assert [m.body for m in outbox.peek(10)] == [b"event", b"1970", b"later"]
    assert outbox.dropped == 1


def test_a_clock_that_is_set_right_takes_nothing_of_this_run_away(tmp_path):
    clock = FakeClock(now=1_800_000_000.0)
    outbox = Outbox(tmp_path / "o.db", BOOT, OutboxLimits(seconds=3600), clock)
    outbox.put("window", b"before", priority=Priority.WINDOW)
    clock.jump(40 * 86_400)
    outbox.put("window", b"after", priority=Priority.WINDOW)
    assert [m.body for m in outbox.peek(10)] == [b"before", b"after"]
    assert outbox.dropped == 0


def test_too_long_a_message_is_refused(tmp_path):
    outbox = Outbox(tmp_path / "o.db", BOOT, OutboxLimits(message_bytes=10))
    with pytest.raises(InputError):
        outbox.put("window", bytes(11), priority=Priority.WINDOW)


def test_a_damaged_file_is_put_aside(tmp_path):
    path = tmp_path / "o.db"
    path.write_bytes(b"this is no database" * 500)
    outbox = Outbox(path, BOOT)
    assert outbox.put("event", b"x", priority=Priority.EVENT) == 1
    assert (tmp_path / "o.db.damaged").exists()


def test_a_file_of_a_later_format_is_left_alone(tmp_path):
    outbox = Outbox(tmp_path / "o.db", BOOT)
    outbox._database.execute("PRAGMA user_version = 99")
    outbox.close()
    with pytest.raises(InputError):
        Outbox(tmp_path / "o.db", BOOT)


WRITER = """
import sys
from pathlib import Path
from skerry.telemetry.outbox import Outbox, Priority
outbox = Outbox(Path(sys.argv[1]), "0" * 16)
while True:
    for seq in outbox.put_many([("window", bytes(3000), Priority.WINDOW)] * 5):
        print(seq, flush=True)
"""


def test_what_was_put_survives_a_kill_in_the_middle_of_writing(tmp_path):
    promised = 0
    for round_ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "o.db")], stdout=subprocess.PIPE
        )
        for _ in range(20 + 7 * round_):
            promised = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split(b"\n")
        promised = max([promised, *(int(line) for line in rest[:-1])])
        process.wait()
        process.stdout.close()
        outbox = Outbox(tmp_path / "o.db", LATER)
        kept = seqs(outbox, 10**6)
        outbox.close()
        assert kept == list(range(1, len(kept) + 1))
        assert len(kept) >= promised
        assert len(kept) % 5 == 0
