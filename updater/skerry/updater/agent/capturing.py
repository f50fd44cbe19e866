"""Orders to keep raw inputs: from the link to the runtime, once they are verified.

An order is followed for the release that serves when it comes, and ends with it. What is kept lies
in `HOME/captures/<order>/`; it leaves the device by no way of the agent's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import Empty, Full, Queue

from skerry.devices.clock import Clock
from skerry.devices.errors import SkerryError, TrustError
from skerry.devices.ids import DeviceId
from skerry.runtime.capture import Capture, CaptureLimits
from skerry.runtime.capture_order import CaptureOrder, verified_order
from skerry.runtime.observe import Observation
from skerry.runtime.prepared import Prepared
from skerry.runtime.runtime import Runtime
from skerry.updater.agent.log import Log
from skerry.updater.agent.parts import Observers
from skerry.updater.agent.report import Reporter
from skerry.updater.trust.orders import order_keys

__all__ = ["Capturing"]

_WAITING = 4


class Capturing:
    """Follows one order at a time. `take` may be called from any thread, the rest from one.

    Args:
        home: the device's; its image root says whose orders count.
        reporter: told what came of each order.
    """

    def __init__(
        self,
        home: Path,
        device: DeviceId,
        runtime: Runtime,
        observers: Observers,
        reporter: Reporter,
        *,
        clock: Clock,
        log: Log,
        limits: CaptureLimits | None = None,
    ) -> None:
        self._root, self._folder = home / "trust/image/root.json", home / "captures"
        self._device, self._runtime, self._observers = device, runtime, observers
        self._reporter, self._clock, self._log = reporter, clock, log
        self._limits = limits
        self._waiting: Queue[bytes] = Queue(_WAITING)
        self._following: _Following | None = None

    def take(self, envelope: bytes) -> None:
        """An order has come; it is looked at later."""
        try:
            self._waiting.put_nowait(envelope)
        except Full:
            self._log("capture", reason="refused: too many orders wait")

    def look(self) -> None:
        """End what has ended, and begin what has come."""
        now = self._following
        if now is not None and (now.release is not self._runtime.active or now.ended):
            self.end()
        while True:
            try:
                envelope = self._waiting.get_nowait()
            except Empty:
                return
            try:
                self._begin(envelope)
            except SkerryError as error:
                self._tell(f"refused: {error}")

    def end(self) -> None:
        """Follow no order any more; what was kept stays."""
        following, self._following = self._following, None
        if following is None:
            return
        following.unwatch()
        following.capture.end()
        found = following.capture.found()
        kept = f"{found.calls} calls, {found.bytes} bytes, {found.passed_over} passed over"
        self._tell(f"{found.order} ended: {found.ended}; {kept}")

    def _begin(self, envelope: bytes) -> None:
        order = self._verified(envelope)
        release = self._runtime.active
        if release is None or release.card.model != order.model:
            raise TrustError(f"the model {order.model!r} does not serve", where="capture order")
        self.end()
        capture = Capture(self._folder, order.model, self._limits, clock=self._clock)
        capture.begin(order)
        self._following = _Following(release, capture, self._observers)
        self._tell(f"{order.id} began: at most {order.calls} calls, {order.bytes} bytes")

    def _verified(self, envelope: bytes) -> CaptureOrder:
        now = self._clock.now()
        try:
            root = self._root.read_bytes()
        except OSError as error:
            raise TrustError(f"cannot read: {error.strerror}", where=self._root) from error
        known = order_keys(root, now)
        return verified_order(
            envelope, known.keys, device=str(self._device), now=now, threshold=known.threshold
        )

    def _tell(self, reason: str) -> None:
        self._log("capture", reason=reason)
        self._reporter.event("capture", "", reason=reason)


class _Following:
    """An order that is followed for one release."""

    def __init__(self, release: Prepared, capture: Capture, observers: Observers) -> None:
        self.release, self.capture = release, capture
        self.unwatch: Callable[[], None] = observers.watch(self)

    @property
    def ended(self) -> bool:
        """Whether nothing more is kept."""
        return bool(self.capture.found().ended)

    def observed(self, call: Observation) -> None:
        """Pass on a call of that release."""
        if call.manifest == self.release.manifest:
            self.capture.observed(call)
