"""The console in a real browser: signing in, what it shows, that it refreshes by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.cdp import Page
from fakes.fleet_process import FleetProcess, PlainDevice

pytestmark = pytest.mark.service("chromium")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    server = FleetProcess(tmp_path_factory.mktemp("fleet")).start()
    server.publish(1)
    yield server
    assert server.stop() == 0, server.log()


@pytest.fixture
def device(fleet: FleetProcess) -> Iterator[PlainDevice]:
    made = fleet.device("lighthouse").start()
    yield made
    made.stop()


def _sign_in(page: Page, fleet: FleetProcess) -> None:
    page.open(fleet.url + "/")
    page.run(f"document.querySelector('#token').value = {fleet.token!r}")
    page.run("document.querySelector('button[type=submit]').click()")
    page.until("document.querySelector('#main') !== null && document.readyState === 'complete'")


def test_an_operator_signs_in_and_watches_a_rollout(
    fleet: FleetProcess, device: PlainDevice, tmp_path: Path
) -> None:
    with Page(tmp_path) as page:
        page.open(fleet.url + "/")
        page.run("document.querySelector('#token').value = 'wrong'")
        page.run("document.querySelector('button[type=submit]').click()")
        page.until("document.body.innerText.includes('No operator has this token')")
        assert "linear/1" not in page.text()

        _sign_in(page, fleet)
        assert "No rollout yet" in page.text()
        fleet.roll_out("linear/1")
        page.until("document.querySelector('.card .tag.done') !== null")  # drawn anew by itself
        assert "lighthouse" in page.text() and "committed" in page.text()

        page.run("document.querySelector('header button').click()")
        page.until("document.querySelector('#token') !== null")
        foreign = [u for u in page.requests if not u.startswith((fleet.url, "data:"))]
        assert foreign == []
        allowed = "401"  # the sign-in with the wrong token
        assert [e for e in page.errors if allowed not in e] == []


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_in_either_scheme_and_width(
    fleet: FleetProcess, tmp_path: Path, scheme: str, dark: bool, width: int
) -> None:
    with Page(tmp_path, width=width) as page:
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=media)
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        _sign_in(page, fleet)
        assert _contrast(page) >= 7, "body text against its ground (WCAG AAA)"
        ground = page.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(_channels(ground)) < 3 * 128) is dark
        assert page.run("document.documentElement.scrollWidth") <= width, (
            "the page scrolls sideways"
        )


def _channels(color: str) -> list[int]:
    return [int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]


def _contrast(page: Page) -> float:
    """The contrast ratio of the page's text (WCAG 2.2, 1.4.6)."""

    def luminance(color: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (channel / 255 for channel in _channels(color))
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = luminance(page.run("getComputedStyle(document.body).color"))
    ground = luminance(page.run("getComputedStyle(document.body).backgroundColor"))
    return (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05)
