"""The models that are on offer, by name: here one runtime; `skerry.runtime.shelf` has many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from skerry.devices.errors import InputError, SkerryError, UnavailableError
from skerry.runtime.engine.base import Arrays
from skerry.runtime.labels import STABLE
from skerry.runtime.prepared import Info
from skerry.runtime.runtime import Answer, Runtime
from skerry.runtime.serving import State

__all__ = ["Models", "OneModel"]


class Models(Protocol):
    """Models by name, each in one or more versions.

    A version may be given by a label, `stable` or `candidate`; None means `stable`.
    """

    @property
    def state(self) -> State:
        """Whether calls are answered at once: `ready`, `swapping` or `empty`."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a release that is being swapped in."""

    def infos(self) -> tuple[Info, ...]:
        """Every version of every model on offer, loaded or not."""

    def info(self, name: str, version: str | None = None) -> Info:
        """What `name` is; InputError where there is none, UnavailableError before any is active."""

    def loaded(self, name: str, version: str | None = None) -> Runtime | None:
        """The runtime that serves `name` now. Never blocks.

        Raises:
            InputError: no such model or version.
        """

    def answer(
        self,
        name: str,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        until: float | None = None,
    ) -> Answer:
        """As `Runtime.answer`; loads the model first where it has to, and then blocks."""

    def answer_all(
        self,
        name: str,
        calls: Sequence[Arrays],
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        until: float | None = None,
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

    def info(self, name: str, version: str | None = None) -> Info:
        """The active release, if its model is `name`; the previous one if that is `version`."""
        active = self._runtime.active
        if active is None:
            raise UnavailableError("no model is active")
        if active.card.model != name:
            raise InputError(
                f"no model {name[:80]!r} here", remedy=f"there is {active.card.model!r}"
            )
        if version is None or version in (STABLE, active.card.version):
            return active.info
        previous = self._runtime.previous
        if previous is not None and version == previous.card.version:
            return previous.info
        raise InputError(f"no version {version!r:.80} of {name!r} serves", where="version")

    def loaded(self, name: str, version: str | None = None) -> Runtime | None:  # noqa: ARG002 - there is only one
        """The runtime."""
        return self._runtime

    def answer(
        self,
        name: str,  # noqa: ARG002 - there is only one
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        until: float | None = None,
    ) -> Answer:
        """Ask the runtime."""
        return self._runtime.answer(inputs, outputs, version=_own(version), until=until)

    def answer_all(
        self,
        name: str,  # noqa: ARG002 - there is only one
        calls: Sequence[Arrays],
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        until: float | None = None,
    ) -> list[Answer | SkerryError]:
        """Ask the runtime."""
        return self._runtime.answer_all(calls, outputs, version=_own(version), until=until)


def _own(version: str | None) -> str | None:
    """A version as a runtime knows it: `stable` is its active release."""
    return None if version == STABLE else version
