"""The models a server offers: one runtime, or a shelf of bundles that are loaded when asked for.

A shelf holds more models than memory does. What is asked for is loaded, and what was not asked for
longest is closed, after the calls it has under way. Loading one model holds up no call to another.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Lock
from typing import Protocol

from skerry.devices.errors import InputError, SkerryError, UnavailableError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.choose import choose
from skerry.runtime.engine.base import Arrays
from skerry.runtime.engine.select import available_formats
from skerry.runtime.observe import Observer
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.prepared import Info
from skerry.runtime.runtime import Answer, Runtime
from skerry.runtime.serving import State

__all__ = ["Models", "OneModel", "Shelf", "ShelfLimits"]


class Models(Protocol):
    """Models by name."""

    @property
    def state(self) -> State:
        """Whether calls are answered at once: `ready`, `swapping` or `empty`."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a release that is being swapped in."""

    def infos(self) -> tuple[Info, ...]:
        """Every model on offer, loaded or not."""

    def info(self, name: str) -> Info:
        """What `name` is; InputError where there is none, UnavailableError before any is active."""

    def loaded(self, name: str) -> Runtime | None:
        """The runtime that serves `name` now. Never blocks."""

    def answer_all(
        self,
        name: str,
        calls: Sequence[Arrays],
        outputs: Sequence[str] | None,
        version: str | None,
    ) -> list[Answer | SkerryError]:
        """As `Runtime.answer_all`; loads the model first where it has to, and then blocks."""


class OneModel:
    """`Models` of one runtime, whose model may change or be missing."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def state(self) -> State:
        """The runtime's."""
        return self._runtime.state

    @property
    def waiting(self) -> int:
        """The runtime's."""
        return self._runtime.waiting

    def infos(self) -> tuple[Info, ...]:
        """The active release, if there is one."""
        info = self._runtime.info()
        return () if info is None else (info,)

    def info(self, name: str) -> Info:
        """The active release, if its model is `name`."""
        info = self._runtime.info()
        if info is None:
            raise UnavailableError("no model is active")
        if info.model != name:
            raise InputError(f"no model {name[:80]!r} here", remedy=f"there is {info.model!r}")
        return info

    def loaded(self, name: str) -> Runtime | None:  # noqa: ARG002 - there is only one
        """The runtime."""
        return self._runtime

    def answer_all(
        self,
        name: str,  # noqa: ARG002 - there is only one
        calls: Sequence[Arrays],
        outputs: Sequence[str] | None,
        version: str | None,
    ) -> list[Answer | SkerryError]:
        """Ask the runtime."""
        return self._runtime.answer_all(calls, outputs, version=version)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfLimits:
    """What a shelf may hold.

    Attributes:
        bytes: memory of loaded models together, as estimated: `per_byte` times the artifact's
            size, and `each_bytes` more.
        retry_s: how long a model that could not be loaded is not tried again.
    """

    bytes: int = 256 << 20
    per_byte: float = 2.0
    each_bytes: int = 2 << 20
    retry_s: float = 5.0


@dataclass
class _Place:
    """One model of a shelf."""

    bundle: Bundle
    info: Info
    bytes: int
    lock: Lock = field(default_factory=Lock)
    retry_at: float = 0.0
    problem: str = ""


class Shelf:
    """`Models` of every bundle in a folder, one subfolder each. Thread-safe.

    Args:
        folder: holds the bundles; read once.

    Raises:
        InputError: there is none, two have one model name, or one is larger than the budget.
        BundleError: a subfolder with an OCI layout is no bundle.
    """

    def __init__(
        self,
        folder: Path,
        options: RuntimeOptions | None = None,
        limits: ShelfLimits | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._options = options or RuntimeOptions()
        self._limits = limits or ShelfLimits()
        self._observer = observer
        self._places = self._read(folder)
        self._change = Condition()
        self._running: OrderedDict[str, Runtime] = OrderedDict()
        self._promised = 0
        self.loads = 0
        self.state: State = "ready"
        self.waiting = 0

    def infos(self) -> tuple[Info, ...]:
        """Every bundle of the folder."""
        return tuple(place.info for place in self._places.values())

    def info(self, name: str) -> Info:
        """What `name` is."""
        return self._place(name).info

    def loaded(self, name: str) -> Runtime | None:
        """The runtime that serves `name`, if it is loaded; it counts as used."""
        with self._change:
            runtime = self._running.get(name)
            if runtime is not None:
                self._running.move_to_end(name)
            return runtime

    def names_loaded(self) -> tuple[str, ...]:
        """The models in memory, the one used last at the end."""
        with self._change:
            return tuple(self._running)

    def answer_all(
        self,
        name: str,
        calls: Sequence[Arrays],
        outputs: Sequence[str] | None,
        version: str | None,
    ) -> list[Answer | SkerryError]:
        """Answer from `name`, loading it where it is not in memory.

        Raises:
            InputError: no such model.
            UnavailableError: it cannot be loaded.
        """
        while True:
            runtime = self.loaded(name) or self._load(name)
            found = runtime.answer_all(calls, outputs, version=version)
            if runtime.active is not None or not any(isinstance(one, SkerryError) for one in found):
                return found

    def load(self, name: str) -> None:
        """Bring `name` into memory."""
        if self.loaded(name) is None:
            self._load(name)

    def unload(self, name: str) -> None:
        """Close `name` after the calls it has under way. It is loaded again when asked for."""
        place = self._place(name)
        with self._change:
            runtime = self._running.pop(name, None)
            if runtime is not None:
                self._promised -= place.bytes
                self._change.notify_all()
        if runtime is not None:
            runtime.close()

    def close(self) -> None:
        """Close every model."""
        for name in self.names_loaded():
            self.unload(name)

    def _place(self, name: str) -> _Place:
        place = self._places.get(name)
        if place is None:
            raise InputError(f"no model {name[:80]!r} here")
        return place

    def _load(self, name: str) -> Runtime:
        place = self._place(name)
        with place.lock:
            runtime = self.loaded(name)
            if runtime is not None:
                return runtime
            if time.monotonic() < place.retry_at:
                raise UnavailableError(place.problem, where=name)
            self._make_room(place.bytes)
            runtime = Runtime(self._options, self._observer)
            try:
                runtime.activate(runtime.prepare(place.bundle))
            except SkerryError as error:
                with self._change:
                    self._promised -= place.bytes
                place.retry_at = time.monotonic() + self._limits.retry_s
                place.problem = f"cannot be loaded: {error}"
                raise UnavailableError(place.problem, where=name) from error
            with self._change:
                self._running[name] = runtime
                self.loads += 1
                self._change.notify_all()
            return runtime

    def _make_room(self, size: int) -> None:
        """Promise `size` bytes to a model about to be loaded, closing the least recently used."""
        closing = []
        with self._change:
            while self._promised + size > self._limits.bytes:
                if not self._running:
                    # All the memory is promised to models that are being loaded.
                    self._change.wait(0.1)
                    continue
                name, runtime = self._running.popitem(last=False)
                self._promised -= self._places[name].bytes
                closing.append(runtime)
            self._promised += size
        for runtime in closing:
            runtime.close()

    def _read(self, folder: Path) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not (path / "oci-layout").is_file():
                continue
            place = self._open(path)
            if place.info.model in places:
                raise InputError(f"two bundles of model {place.info.model!r}", where=path)
            places[place.info.model] = place
        if not places:
            raise InputError("no bundle in this folder", where=folder)
        return places

    def _open(self, path: Path) -> _Place:
        bundle = Bundle.open(path)
        formats = self._options.formats or available_formats()
        chosen = choose(bundle.card, formats, artifact=self._options.artifact)
        size = int(chosen.blob.size * self._limits.per_byte) + self._limits.each_bytes
        if size > self._limits.bytes:
            raise InputError(
                f"needs about {size} bytes, the budget is {self._limits.bytes}", where=path
            )
        card = bundle.card
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
        return _Place(bundle, info, size)
