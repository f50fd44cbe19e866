"""Drift verdicts: what devices sketched lately, against the reference in their signed bundle."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import SkerryError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.sketches import SketchSet
from skerry.telemetry.drift import compare
from skerry.updater.server.fleet import Fleet

__all__ = ["DriftWatch"]

_LOG = logging.getLogger(__name__)


class DriftWatch:
    """Compares, and keeps the references it has read."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._references: dict[str, SketchSet | None] = {}

    def judge(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Renew the verdicts of (device, manifest) pairs."""
        for device, manifest in sorted(pairs):
            try:
                self._judge(device, manifest)
            except SkerryError as error:
                _LOG.warning("no drift verdict on %s: %s", device, error)
            except Exception:  # noqa: BLE001 - one bad pair must not cost the others their verdict
                _LOG.exception("no drift verdict on %s", device)

    def _judge(self, device: str, manifest: str) -> None:
        reference = self._reference(manifest)
        if reference is None:
            return
        telemetry, live = self._fleet.store.telemetry, SketchSet()
        for sketches in telemetry.sketches(device, manifest, self._fleet.limits.drift_windows):
            live.merge(SketchSet.decode(sketches))
        telemetry.set_drift(device, manifest, compare(reference, live).verdict)

    def _reference(self, manifest: str) -> SketchSet | None:
        """The bundle's reference; None if it has none, or is no release of ours."""
        if manifest not in self._references:
            release = next(
                (r for r in self._fleet.store.access.releases() if r.manifest == manifest), None
            )
            if release is None:
                return None
            found = Bundle.of(self._fleet.blobs, Descriptor(Digest(manifest), release.size))
            blob = found.card.reference
            self._references[manifest] = SketchSet.decode(found.read(blob)) if blob else None
        return self._references[manifest]
