"""A release that has passed every step: it answers, counts its calls, and closes after the last."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event, Lock

import msgspec

from skerry.devices.digest import Digest
from skerry.devices.errors import UnavailableError
from skerry.runtime.breaker import Breaker
from skerry.runtime.bundle.card import ArtifactSpec, Card, TensorSpec
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.engine.base import Arrays, Engine
from skerry.runtime.golden import GoldenResult
from skerry.runtime.session import Session

__all__ = ["Info", "Prepared"]


class Info(msgspec.Struct, frozen=True):
    """What serves: model, version, digest, artifact, engine and signature."""

    model: str
    version: str
    manifest: str
    artifact: str
    engine: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]


class Prepared:
    """A release that has passed every step and can serve.

    Attributes:
        bundle: where it was loaded from.
        card, artifact: what the bundle says of it.
        manifest: the bundle's identity.
        info: the same for people.
        golden: what the golden test found.
        session: what answers; call it between `enter` and `leave`.
        row_seconds: the quickest single-row call of the warm-up.
        batch_gain: how many times faster rows are answered eight at a time than one by one.
        independent: whether strangers' rows may share a batch (`skerry.runtime.independence`).
        bytes: of memory that it is taken to need.
        isolated: whether the engine is another process, so that a call may take its whole limit.
        breaker: whether the engine is asked at all after failures.
        standby: another artifact of the same bundle, that answers where this one cannot.
        retired, closed: whether it lets no call in any more, and whether its engine is gone.
    """

    def __init__(
        self,
        bundle: Bundle,
        artifact: ArtifactSpec,
        engine: Engine,
        session: Session,
        golden: GoldenResult,
        row_seconds: float,
        batch_gain: float,
        independent: bool,
        isolated: bool,
        breaker: Breaker,
        standby: Prepared | None = None,
        bytes: int = 0,  # noqa: A002 - the field's own name
    ) -> None:
        self.bundle = bundle
        self.card: Card = bundle.card
        self.artifact = artifact
        self.manifest: Digest = bundle.manifest.digest
        self.golden = golden
        self.row_seconds = row_seconds
        self.batch_gain = batch_gain
        self.independent = independent
        self.isolated = isolated
        self.bytes = bytes
        self.info = _info(bundle, artifact, engine)
        self._engine = engine
        self.session = session
        self.breaker = breaker
        self.standby = standby
        self._lock = Lock()
        self._calls = 0
        self.retired = self.closed = False
        self._ended = Event()

    def predict(
        self,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        *,
        until: float | None = None,
    ) -> Arrays:
        """Answer one call with this release, whether or not it is the active one.

        Args:
            until: as for `Runtime.answer`.

        Raises:
            SignatureMismatch: the call does not fit the signature; names the tensor.
            UnavailableError: the engine failed, or the release is closed.
        """
        if not self.enter():
            raise UnavailableError("the release is closed", where=self.manifest)
        try:
            return self.session.predict(inputs, outputs, until)
        finally:
            self.leave()

    def joined_rows(self, most: int, gain: float) -> int:
        """The longest batch that waiting calls are joined to, of `most` rows; 1 where a batch is
        less than `gain` times faster than its rows, or one call would change another's answer."""
        return most if self.independent and self.batch_gain >= gain else 1

    def call_seconds(self, rows: int) -> float:
        """What a call of `rows` is taken to need, from what the warm-up measured."""
        return self.row_seconds * max(1.0, rows / max(1.0, self.batch_gain))

    def same_signature(self, other: Prepared) -> bool:
        """Whether a call for one may be answered by the other."""
        mine, its = self.card, other.card
        return (mine.model, mine.inputs, mine.outputs) == (its.model, its.inputs, its.outputs)

    def enter(self) -> bool:
        """Begin a call; False where the release is closing."""
        with self._lock:
            if self.retired:
                return False
            self._calls += 1
            return True

    def leave(self) -> None:
        """End a call that `enter` let in. The last one out of a retired release closes it."""
        with self._lock:
            self._calls -= 1
            if not self._may_close():
                return
        self._close_engine()

    def close(self) -> None:
        """Let no further call in; the engine is closed when the calls under way have ended."""
        with self._lock:
            self.retired = True
            if not self._may_close():
                return
        self._close_engine()

    def park(self, seconds: float) -> bool:
        """As `close`, and wait until the engine's memory is given back.

        Returns:
            False where the calls under way have not ended within `seconds`: it goes on serving.
        """
        self.close()
        if self._ended.wait(seconds):
            return True
        with self._lock:
            if not self.closed:
                self.retired = False
                return False
        return self._ended.wait(seconds)

    def _may_close(self) -> bool:
        """Under the lock: whether the engine is to be closed now, by whoever asks."""
        if self._calls or not self.retired or self.closed:
            return False
        self.closed = True
        return True

    def _close_engine(self) -> None:
        self._engine.close()
        if self.standby is not None:
            self.standby.close()
        self._ended.set()


def _info(bundle: Bundle, artifact: ArtifactSpec, engine: Engine) -> Info:
    card = bundle.card
    return Info(
        card.model,
        card.version,
        str(bundle.manifest.digest),
        artifact.name,
        engine.name,
        card.inputs,
        card.outputs,
        card.labels,
    )
