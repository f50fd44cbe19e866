"""Which release serves: the active one, the previous one, and how the next one comes in.

Where memory holds two releases the next one is loaded beside the active one and takes over by one
assignment. Where it does not, the active one is parked first: its calls end, its engine is closed,
and further calls wait at a gate until the next one, or the same again, is ready.
"""

from __future__ import annotations

from threading import RLock
from typing import Literal

from skerry.devices.errors import InputError, SkerryError, UnavailableError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.gate import Gate
from skerry.runtime.prepare import RuntimeOptions, needed_bytes, prepare
from skerry.runtime.prepared import Prepared
from skerry.runtime.room import way_in

__all__ = ["Serving", "State"]

State = Literal["empty", "ready", "swapping"]
"""Whether a call is answered at once: no release is here, one is, or calls wait for the next."""


class Serving:
    """At any time one active release, and the previous one to go back to. Thread-safe."""

    def __init__(self, options: RuntimeOptions) -> None:
        self._options = options
        self._swap, self._loading = RLock(), RLock()
        self._gate = Gate(options.memory.waiting, options.memory.wait_s)
        self.active: Prepared | None = None
        self.previous: Prepared | None = None

    @property
    def state(self) -> State:
        """What a call meets now."""
        if self._gate.is_shut:
            return "swapping"
        return "empty" if self.active is None else "ready"

    @property
    def waiting(self) -> int:
        """Calls that wait for the next release."""
        return self._gate.waiting

    def prepare(self, bundle: Bundle, artifact: str | None) -> Prepared:
        """As `Runtime.prepare`."""
        with self._loading:
            wanted = needed_bytes(bundle, self._options, artifact)
            budget = self._options.memory.bytes
            way = way_in(budget, wanted, _held(self.active), _held(self.previous))
            if way != "beside":
                self.forget_previous()
            if way == "alone" and self.active is not None:
                return self._prepare_alone(self.active, bundle, artifact)
            return prepare(bundle, self._options, artifact)

    def activate(self, prepared: Prepared) -> None:
        """As `Runtime.activate`."""
        while not self._take_over(prepared):  # it lets no call in any more: it is loaded again
            prepared = self.prepare(prepared.bundle, prepared.artifact.name)

    def forget_previous(self) -> None:
        """Close the previous release."""
        with self._swap:
            stale, self.previous = self.previous, None
            if stale is not None:
                stale.close()

    def close(self) -> None:
        """Let no further call in, and close each release when its calls have ended."""
        with self._swap:
            ending = [self.active, self.previous]
            self.active = self.previous = None
            self._gate.open()
            for prepared in ending:
                if prepared is not None:
                    prepared.close()

    def enter(self, version: str | None, until: float | None) -> Prepared:
        """Begin a call on the active release, or on the one of `version`; `leave` it afterwards.

        Raises:
            UnavailableError: there is none, or too many calls wait for it, or for too long.
            InputError: no release of that version is here.
        """
        while True:
            release = self._meant(version)
            if release is not None and release.enter():
                return release
            if self._gate.is_shut:
                self._gate.wait(until)
            elif release is None:
                raise UnavailableError("no model is active", remedy="activate a bundle first")
            elif release.retired and release is self._meant(version):
                raise UnavailableError("the release is closed", where=release.manifest)

    def _take_over(self, prepared: Prepared) -> bool:
        """Make it the active release, unless it is closed or closing. What is retired is retired
        under the same lock, so that none becomes active meanwhile."""
        with self._swap:
            if prepared.retired:
                return False
            if prepared is not self.active:
                stale = None if prepared is self.previous else self.previous
                self.previous, self.active = self.active, prepared
                self._gate.open()
                if stale is not None:
                    stale.close()
        return True

    def _meant(self, version: str | None) -> Prepared | None:
        if version is None:
            return self.active
        for release in (self.active, self.previous):
            if release is not None and release.card.version == version:
                return release
        raise InputError(f"no version {version[:80]!r} is loaded", where="version")

    def _prepare_alone(self, active: Prepared, bundle: Bundle, artifact: str | None) -> Prepared:
        """Park the active release, and load another while calls wait. The gate stays shut until
        that one is activated; if it cannot be loaded, the parked one comes back."""
        self._gate.shut()
        drain_s = self._options.memory.drain_s
        try:
            if not active.park(drain_s):
                raise UnavailableError(
                    f"calls under way did not end within {drain_s:g} s", where=active.manifest
                )
            return prepare(bundle, self._options, artifact)
        except BaseException:
            self._bring_back(active)
            raise

    def _bring_back(self, parked: Prepared) -> None:
        """Serve again what was parked; nothing, where it cannot be loaded any more."""
        try:
            if parked.closed:
                again = prepare(parked.bundle, self._options, parked.artifact.name)
                with self._swap:
                    self.active = again
        except SkerryError:
            with self._swap:
                self.active = None
        finally:
            self._gate.open()


def _held(release: Prepared | None) -> int:
    """Bytes of memory that a release takes now."""
    return 0 if release is None or release.closed else release.bytes
