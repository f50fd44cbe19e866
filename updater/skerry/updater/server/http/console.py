"""The console: one page for operators, drawn on the server, with nothing from elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qs

import jinja2
import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from skerry.devices.clock import Clock
from skerry.devices.output import human_bytes
from skerry.updater.rollout import Rollout
from skerry.updater.server.admission import hash_token
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.http.access import fleet_of, limited_body
from skerry.updater.server.http.rollouts import rollout_views
from skerry.updater.server.view import device_views, release_views

__all__ = ["Sessions", "router"]

router = APIRouter(include_in_schema=False)

_PAGES = Path(__file__).parent / "pages"
_COOKIE = "skerry_session"
_MOST_SESSIONS = 1000
_EVENTS_SHOWN = 25
_LIVE = ("running", "paused")
_OTHERS_SHOWN = 3
_SHOWN_STATIC = {"console.css": "text/css", "console.js": "text/javascript"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FORM = Depends(limited_body(lambda fleet: fleet.limits.form_bytes))


class Sessions:
    """Who is signed in to the console: random names, kept in memory, for a while.

    Args:
        seconds: how long a session lasts.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds, self._lock = clock, seconds, Lock()
        self._open: dict[str, tuple[str, float]] = {}

    def begin(self, token_hash: str) -> str:
        """A new session of the operator with this token; the oldest goes if there are too many."""
        name = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._open) >= _MOST_SESSIONS:
                del self._open[next(iter(self._open))]
            self._open[name] = (token_hash, self._clock.now() + self._seconds)
        return name

    def find(self, name: str) -> str | None:
        """The token hash of a session that has not ended."""
        with self._lock:
            token_hash, until = self._open.get(name, ("", 0.0))
        return token_hash if token_hash and self._clock.now() < until else None

    def end(self, name: str) -> None:
        """Sign out."""
        with self._lock:
            self._open.pop(name, None)


@router.get("/")
def _page(request: Request) -> Response:
    """The console, or the form to sign in."""
    fleet = fleet_of(request)
    if not _signed_in(request):
        return _html("sign_in.html", {"tenant": fleet.tenant, "failed": False})
    return _html("console.html", {"tenant": fleet.tenant, **_data(fleet)})


@router.get("/console/main")
def _main(request: Request) -> Response:
    """What changes on the page, drawn anew."""
    if not _signed_in(request):
        raise HTTPException(401, "sign in again")
    return _html("main.html", _data(fleet_of(request)))


@router.post("/console/sign-in")
def _sign_in(request: Request, body: bytes = _FORM) -> Response:
    """Exchange an operator's token for a session."""
    fleet = fleet_of(request)
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=4)
    token_hash = hash_token(fields.get("token", [""])[0].strip())
    if fleet.store.access.operator(token_hash) is None:
        return _html("sign_in.html", {"tenant": fleet.tenant, "failed": True}, 401)
    response = _home()
    response.set_cookie(
        _COOKIE,
        request.app.state.sessions.begin(token_hash),
        httponly=True,
        samesite="strict",
        secure=fleet.url.startswith("https:"),
    )
    return response


@router.post("/console/sign-out")
def _sign_out(request: Request) -> Response:
    """End the session."""
    request.app.state.sessions.end(request.cookies.get(_COOKIE, ""))
    response = _home()
    response.delete_cookie(_COOKIE)
    return response


@router.get("/console/{name}")
def _asset(name: str) -> Response:
    """The page's style and script."""
    if name not in _SHOWN_STATIC:
        raise HTTPException(404, "no such file")
    headers = {**_HEADERS, "Cache-Control": "no-cache"}
    return Response((_PAGES / name).read_bytes(), headers=headers, media_type=_SHOWN_STATIC[name])


def _signed_in(request: Request) -> bool:
    token_hash = request.app.state.sessions.find(request.cookies.get(_COOKIE, ""))
    return bool(token_hash) and fleet_of(request).store.access.operator(token_hash) is not None


def _home() -> Response:
    return Response(status_code=303, headers={"Location": "/", "Cache-Control": "no-store"})


def _data(fleet: Fleet) -> dict[str, object]:
    """Everything that the page shows."""
    store = fleet.store
    rollouts = store.rollouts.all()
    shown = _shown(rollouts[::-1])
    devices = device_views(store.registry.devices(), store.telemetry.totals(), rollouts)
    return {
        "now": fleet.clock.now(),
        "devices": [msgspec.structs.asdict(device) for device in devices],
        "rollouts": rollout_views(fleet, shown),
        "more_rollouts": len(rollouts) - len(shown),
        "releases": release_views(store.access.releases(), fleet.image.releases()),
        "events": store.telemetry.events(_EVENTS_SHOWN),
        "mqtt": fleet.mqtt,
    }


def _shown(newest_first: Sequence[Rollout]) -> list[Rollout]:
    """All rollouts that go on or wait to, then the newest of the others."""
    live = [r for r in newest_first if r.state in _LIVE]
    return live + [r for r in newest_first if r.state not in _LIVE][:_OTHERS_SHOWN]


def _html(name: str, values: dict[str, object], status: int = 200) -> Response:
    text = _templates().get_template(name).render(values)
    return Response(text, status, headers=_HEADERS, media_type="text/html")


def _ago(at: float, now: float) -> str:
    """`at` as a distance from `now`."""
    seconds = max(0, int(now - at))
    if not at:
        return "never"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago" if seconds > 2 else "now"


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(ago=_ago, count=_count, bytes=human_bytes)
    return environment
