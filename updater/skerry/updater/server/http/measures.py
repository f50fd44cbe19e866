"""`/metrics`: the fleet and the server in numbers."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from skerry.updater.server.http.access import fleet_of, operator_of
from skerry.updater.server.metrics import exposition
from skerry.updater.server.view import device_views

__all__ = ["router"]

router = APIRouter()


@router.get("/metrics")
def _metrics(request: Request) -> Response:
    """The fleet and the server in numbers, for Prometheus."""
    operator_of(request, "viewer")
    store, counters = fleet_of(request).store, request.app.state.counters()
    rollouts = store.rollouts.all()
    views = device_views(store.registry.devices(), store.telemetry.totals(), rollouts)
    return Response(exposition(views, rollouts, counters), media_type="text/plain; version=0.0.4")
