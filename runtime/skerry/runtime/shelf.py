"""More models than memory holds: each is loaded when it is asked for, and closed to make room.

What is on the disk is a `Stock`; which version a caller means is told by `Labels`; which loaded
model makes way by `heat.victim`. A model that is closed ends the calls it has under way first, and
loading one holds up no call to another.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Event, Lock, Thread

from skerry.devices.errors import CancelledError, InputError, SkerryError, UnavailableError
from skerry.devices.files import Disk
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.engine.base import Arrays
from skerry.runtime.heat import Heat, Resident, victim
from skerry.runtime.labels import STABLE, Labels, version_of
from skerry.runtime.observe import Observer
from skerry.runtime.prepare import RuntimeOptions, chosen_artifact
from skerry.runtime.prepared import Info
from skerry.runtime.room import Footprint
from skerry.runtime.runtime import Answer, Runtime
from skerry.runtime.serving import State
from skerry.runtime.stock import Key, Stock, StockLimits

__all__ = ["Shelf", "ShelfLimits"]

_SHORTEST_S = 0.05
_LABELS = "labels.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfLimits:
    """What a shelf may hold.

    Attributes:
        bytes: memory of loaded models together, as `footprint` estimates it.
        retry_s: how long a model that could not be loaded is not tried again.
        idle_s: a model not asked for so long is closed; 0 for never.
        half_life_s: after which a call counts half in deciding which model stays loaded.
        load_s: how long a call waits for memory that is promised to models being loaded.
        stock: what there may be on the disk.
    """

    bytes: int = 256 << 20
    footprint: Footprint = field(default_factory=Footprint)
    retry_s: float = 5.0
    idle_s: float = 900.0
    half_life_s: float = 60.0
    load_s: float = 30.0
    stock: StockLimits = field(default_factory=StockLimits)


class _Place:
    """One version of one model: what it is, whether it is loaded, and how often it is called."""

    def __init__(self, info: Info, size: int, half_life_s: float) -> None:
        self.info, self.bytes, self.heat = info, size, Heat(half_life_s)
        self.loading = Lock()
        self.runtime: Runtime | None = None
        self.loaded_at = self.called_at = self.retry_at = 0.0
        self.problem = ""


class Shelf:
    """`Models` of every bundle in a folder, one subfolder each. Thread-safe.

    `labels.json` in the folder says which version is stable and which a candidate.

    Raises:
        InputError: there is none, two are the same version of one model, one is larger than the
            budget, or the labels are malformed.
        BundleError: a subfolder with an OCI layout is no bundle.
    """

    def __init__(
        self,
        folder: Path,
        options: RuntimeOptions | None = None,
        limits: ShelfLimits | None = None,
        observer: Observer | None = None,
        disk: Disk | None = None,
    ) -> None:
        self._options, self._observer = options or RuntimeOptions(), observer
        self._limits = limits or ShelfLimits()
        self._stock = Stock(folder, self._limits.stock, disk)
        self._labels = Labels(folder / _LABELS, disk)
        self._offer({key: self._place(self._stock.open(key)) for key in self._stock})
        if not self._places:
            raise InputError("no bundle in this folder", where=folder)
        self._change, self._stocking = Condition(), Lock()
        self._promised = 0
        self.loads = 0
        self.state: State = "ready"
        self.waiting = 0
        self._over = Event()
        self._tending = Thread(target=self._tend, name="skerry-shelf", daemon=True)
        if self._limits.idle_s:
            self._tending.start()

    def infos(self) -> tuple[Info, ...]:
        """Every bundle of the folder."""
        return tuple(place.info for place in tuple(self._places.values()))

    def info(self, name: str, version: str | None = None) -> Info:
        """What that version of `name` is."""
        return self._found(self._key(name, version)).info

    def loaded(self, name: str, version: str | None = None) -> Runtime | None:
        """The runtime that serves that version of `name`, if it is loaded."""
        return self._found(self._key(name, version)).runtime

    def names_loaded(self) -> tuple[str, ...]:
        """The models in memory, the one that was called last at the end."""
        here = [(place.called_at, key.model) for key, place in self._loaded()]
        return tuple(name for _, name in sorted(here))

    def answer(
        self,
        name: str,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        until: float | None = None,
    ) -> Answer:
        """Answer from that version of `name`, loading it where it is not in memory.

        Raises:
            InputError: no such model or version.
            UnavailableError: it cannot be loaded, or the shelf is closed.
            SkerryError: as `Runtime.answer`.
        """
        (found,) = self.answer_all(name, [inputs], outputs, version, until)
        if isinstance(found, SkerryError):
            raise found
        return found

    def answer_all(
        self,
        name: str,
        calls: Sequence[Arrays],
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        until: float | None = None,
    ) -> list[Answer | SkerryError]:
        """As `answer` for several callers; each gets an answer or an error of its own."""
        key = self._key(name, version)
        place = self._found(key)
        place.called_at = time.monotonic()
        place.heat.touch(place.called_at)
        while True:
            runtime = place.runtime or self._load(key, place, until)
            found = runtime.answer_all(calls, outputs, until=until)
            if runtime.active is not None or not any(isinstance(one, SkerryError) for one in found):
                return found

    def load(self, name: str, version: str | None = None) -> None:
        """Bring that version of `name` into memory."""
        key = self._key(name, version)
        place = self._found(key)
        if place.runtime is None:
            self._load(key, place, None)

    def unload(self, name: str, version: str | None = None) -> None:
        """Close it after the calls it has under way. It is loaded again when asked for."""
        self._close([self._found(self._key(name, version))])

    def unload_idle(self, now: float) -> None:
        """Close what has not been called for `idle_s` at `now` (`time.monotonic`)."""
        latest = now - self._limits.idle_s
        self._close([place for _, place in self._loaded() if place.called_at < latest])

    def label(self, name: str, label: str, version: str | None) -> None:
        """Give `label` to a version of `name`; None takes it away.

        Raises:
            InputError: no such model or version.
            UnavailableError: it cannot be written; nothing has changed.
        """
        key = self._key(name, version)
        self._labels.set(key.model, label, None if version is None else key.version)

    def add(self, source: Path) -> Info:
        """Take in a copy of the bundle at `source`. Where the disk's quota would be exceeded,
        versions without a label, other than each model's stable one, go: what was not loaded
        longest first.

        Raises:
            SkerryError: as `Stock.add`; the shelf is as it was, but for what had to go.
        """
        place = self._place(Bundle.open(source))
        with self._stocking:
            key = self._stock.add(source, self._is_kept)
            going = [one for known, one in self._places.items() if known not in self._stock]
            places = {k: one for k, one in self._places.items() if k in self._stock}
            self._offer({**places, key: place})
        self._close(going)
        return place.info

    def close(self) -> None:
        """Close every model, and load none any more."""
        with self._change:
            self._over.set()
            self._change.notify_all()
        self._close([place for _, place in self._loaded()])
        if self._tending.is_alive():
            self._tending.join()

    def _offer(self, places: dict[Key, _Place]) -> None:
        versions: dict[str, list[str]] = {}
        for key in places:
            versions.setdefault(key.model, []).append(key.version)
        self._places, self._versions = places, versions

    def _key(self, name: str, version: str | None) -> Key:
        if version is not None and (key := Key(name, version)) in self._places:
            return key
        known = self._versions.get(name)
        if known is None:
            raise InputError(f"no model {name[:80]!r} here")
        if len(known) == 1 and version in (None, STABLE):
            return Key(name, known[0])
        return Key(name, version_of(version, known, self._labels.of(name)))

    def _found(self, key: Key) -> _Place:
        place = self._places.get(key)
        if place is None:
            raise InputError("was removed just now", where=key)
        return place

    def _is_kept(self, key: Key) -> bool:
        """Whether a version must stay on the disk."""
        return key.version in self._labels.of(key.model).values() or key == self._key(
            key.model, STABLE
        )

    def _loaded(self) -> list[tuple[Key, _Place]]:
        places = tuple(self._places.items())
        return [(key, place) for key, place in places if place.runtime is not None]

    def _load(self, key: Key, place: _Place, until: float | None) -> Runtime:
        with place.loading:
            if place.runtime is not None:
                return place.runtime
            if time.monotonic() < place.retry_at:
                raise UnavailableError(place.problem, where=key)
            going = self._make_room(place, until)
            runtime = Runtime(self._options, self._observer)
            try:
                for one in going:
                    one.close()
                runtime.activate(runtime.prepare(self._stock.open(key)))
                with self._change:
                    self._check_open()
                    place.runtime, place.loaded_at = runtime, time.monotonic()
                    self.loads += 1
                    self._change.notify_all()
            except BaseException as error:
                self._give_back(place)
                runtime.close()
                if not isinstance(error, SkerryError):
                    raise
                place.retry_at = time.monotonic() + self._limits.retry_s
                place.problem = f"cannot be loaded: {error}"
                raise UnavailableError(place.problem, where=key) from error
            self._stock.used(key)
            return runtime

    def _make_room(self, place: _Place, until: float | None) -> list[Runtime]:
        """Promise its bytes to a model about to be loaded. Returns what is to be closed first."""
        latest = time.monotonic() + self._limits.load_s
        latest = latest if until is None else min(until, latest)
        going: list[Runtime] = []
        try:
            with self._change:
                self._check_open()
                while self._promised + place.bytes > self._limits.bytes:
                    here, now = [one for _, one in self._loaded()], time.monotonic()
                    if here:
                        residents = [Resident(one.heat.at(now), one.loaded_at) for one in here]
                        coldest = here[victim(residents, place.heat.at(now))]
                        going.append(self._take_out(coldest))
                    elif not self._change.wait(max(0.0, latest - now)):
                        raise CancelledError("no memory was free in time", where=place.info.model)
                    self._check_open()
                self._promised += place.bytes
        except SkerryError:
            for runtime in going:
                runtime.close()
            raise
        return going

    def _give_back(self, place: _Place) -> None:
        """Take back what was promised to a model that was not loaded."""
        with self._change:
            self._promised -= place.bytes
            self._change.notify_all()

    def _check_open(self) -> None:
        if self._over.is_set():
            raise UnavailableError("the shelf is closed")

    def _take_out(self, place: _Place) -> Runtime:
        """Under the lock: take a loaded model's runtime, which is to be closed."""
        runtime, place.runtime = place.runtime, None
        assert runtime is not None
        self._promised -= place.bytes
        self._change.notify_all()
        return runtime

    def _close(self, places: Sequence[_Place]) -> None:
        with self._change:
            closing = [self._take_out(place) for place in places if place.runtime is not None]
        for runtime in closing:
            runtime.close()

    def _tend(self) -> None:
        while not self._over.wait(max(_SHORTEST_S, self._limits.idle_s / 10)):
            self.unload_idle(time.monotonic())

    def _place(self, bundle: Bundle) -> _Place:
        card, chosen = bundle.card, chosen_artifact(bundle, self._options)
        size = self._limits.footprint.of(chosen.blob.size)
        if size > self._limits.bytes:
            raise InputError(
                f"needs about {size} bytes, the budget is {self._limits.bytes}", where=card.model
            )
        info = Info(
            card.model,
            card.version,
            str(bundle.manifest.digest),
            chosen.name,
            chosen.format,
            card.inputs,
            card.outputs,
            card.labels,
        )
        return _Place(info, size, self._limits.half_life_s)
