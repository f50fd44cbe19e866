"""The application: routers put together, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from skerry.devices.ids import DeviceId
from skerry.updater.server.conduct import Conductor
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.http import console, devices, measures, operators, rollouts
from skerry.updater.server.http.answers import answer_error, install_errors

__all__ = ["make_app"]


def make_app(
    fleet: Fleet,
    conductor: Conductor,
    disconnect: Callable[[str], None],
    counters: Callable[[], Mapping[str, int]],
    order: Callable[[DeviceId, bytes], None],
) -> FastAPI:
    """The ASGI application of one fleet.

    Args:
        disconnect: ends the live connections of a device, by its id.
        counters: totals of the collector, for metrics.
        order: hands a signed capture order to a device.
    """
    # The interactive pages of FastAPI load scripts from the internet.
    app = FastAPI(
        title="skerry fleet",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.fleet, app.state.conductor, app.state.disconnect = fleet, conductor, disconnect
    app.state.sessions = console.Sessions(fleet.clock, fleet.limits.session_hours * 3600)
    app.state.counters, app.state.order = counters, order
    install_errors(app)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        return answer_error(422, f"{where}: {first.get('msg', 'invalid')}")

    for part in (devices, operators, rollouts, measures, console):
        app.include_router(part.router)
    return app
