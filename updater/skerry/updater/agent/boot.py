"""Into service after a start, before any network; and mending what the disk has lost."""

from __future__ import annotations

from skerry.devices.errors import BundleError, SkerryError, TrustError, UnavailableError
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.agent.fetching import Fetching
from skerry.updater.agent.log import Log
from skerry.updater.agent.report import Reporter
from skerry.updater.agent.trial import Models
from skerry.updater.store.slots import Held, fallen_back
from skerry.updater.store.store import Store

__all__ = ["mend", "serve"]

_DEATHS = 5


def serve(store: Store, models: Models, reporter: Reporter, log: Log) -> None:
    """Serve the active release; where that cannot be, the previous one; else nothing.

    A load that kills the process is a failure too, from the sixth start on.

    A release whose bytes were damaged stays active on paper, and `mend` brings it back. One that
    is whole and does not work any more gives way to the previous one for good.
    """
    slots = store.now.slots
    if slots.active is None:
        return
    try:
        _load_active(store, models, slots.active)
        log("serving", release=slots.active.release, artifact=slots.active.artifact)
        return
    except (TrustError, BundleError) as error:
        log("active_damaged", release=slots.active.release, reason=error)
        store.damaged(slots.active)
    except SkerryError as error:
        log("active_failed", release=slots.active.release, reason=error)
        if slots.previous is None:
            reporter.event("golden_failed", slots.active.release, reason=str(error))
        else:
            store.become(fallen_back(store.now, str(error)))
            reporter.event("rolled_back", slots.active.release, reason=str(error))
            reporter.slots(store.now.slots)
    if slots.previous is None:
        return
    try:
        _load(store, models, slots.previous)
        log("serving_previous", release=slots.previous.release)
    except SkerryError as error:
        log("previous_failed", release=slots.previous.release, reason=error)


def mend(store: Store, models: Models, fetching: Fetching, log: Log) -> None:
    """Fetch what is missing of the active release, and serve it.

    Raises:
        SkerryError: as `Fetching.restore` and `Runtime.prepare`.
    """
    active = store.now.slots.active
    serving = models.active
    if active is None or (serving is not None and str(serving.manifest) == active.manifest.digest):
        return
    if not store.damaged(active):
        return
    fetching.restore(active)
    _load(store, models, active)
    models.forget_previous()
    log("mended", release=active.release)


def _load_active(store: Store, models: Models, held: Held) -> None:
    """Load what is active, unless the process died of it too often.

    Raises:
        SkerryError: it did, or as `Runtime.prepare`.
    """
    died = store.starts.begin(held.release)
    try:
        if died >= _DEATHS:
            raise UnavailableError(
                f"the process ended {died} times while it was loaded", where=held.release
            )
        _load(store, models, held)
    finally:
        store.starts.end()


def _load(store: Store, models: Models, held: Held) -> None:
    with store.blobs.forgetting():
        bundle = Bundle.of(store.blobs, held.manifest.descriptor())
        models.activate(models.prepare(bundle, artifact=held.artifact))
