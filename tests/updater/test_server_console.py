"""What the console's page shows of a fleet."""

import re
from pathlib import Path

import msgspec
import pytest

from fakes.harbour import Harbour
from skerry.cli.main import main
from skerry.updater.rollout import Policy
from skerry.updater.server.http.console import _data, _html


@pytest.fixture
def harbour(tmp_path: Path) -> Harbour:
    made = Harbour(tmp_path)
    made.publish(1, 2)
    return made


def _page(harbour: Harbour) -> str:
    return bytes(_html("main.html", _data(harbour.fleet)).body).decode()


def _cards(page: str) -> list[tuple[str, str]]:
    found = re.findall(r'<h3>.*?>(r\d+)</span> <span class="tag (\w+)"', page)
    return [(name, state) for name, state in found]


def test_drafts_hide_no_rollout_that_runs(harbour: Harbour) -> None:
    rollouts = harbour.store.rollouts
    for state in ("done", "running", "paused", "draft", "draft", "aborted", "draft"):
        added = rollouts.add("linear/1", Policy(), [], harbour.clock.now())
        rollouts.save(msgspec.structs.replace(added, state=state), was="draft")
    page = _page(harbour)
    assert _cards(page) == [
        ("r3", "paused"),
        ("r2", "running"),
        ("r7", "draft"),
        ("r6", "aborted"),
        ("r5", "draft"),
    ]
    assert "and 2 more" in page


def test_of_few_rollouts_none_is_left_out(harbour: Harbour) -> None:
    harbour.store.rollouts.add("linear/1", Policy(), [], harbour.clock.now())
    page = _page(harbour)
    assert _cards(page) == [("r1", "draft")] and "more" not in page


def test_no_tile_counts_a_revoked_device(harbour: Harbour) -> None:
    harbour.enrol("here", "gone")
    for name in ("here", "gone"):
        harbour.commit(name, 1)
        harbour.window(name, 1, requests=10, errors=2)
        (mine,) = (t for t in harbour.store.telemetry.totals() if t.device == name)
        harbour.store.telemetry.set_drift(name, mine.manifest, "drift")
    harbour.store.registry.presence("here", True, "a" * 16, harbour.clock.now())
    harbour.store.registry.revoke("gone", harbour.clock.now())
    tiles = re.findall(r'class="tile[^>]*><b>(.*?)</b>', _page(harbour))
    assert [re.sub(r"<[^>]*>", "", tile) for tile in tiles] == ["1 / 1", "10", "2", "1"]


@pytest.mark.parametrize("days", ["14", "nan", "inf", "0"])
def test_windows_are_kept_longer_than_devices_send_them_again(
    days: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fleet", "serve", "--home", str(tmp_path), "--window-days", days]
    assert main(words) == 2
    assert "--window-days" in capsys.readouterr().err
