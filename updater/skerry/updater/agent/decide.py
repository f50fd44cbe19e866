"""What an assignment means for a device: the rule that stands before every update."""

from __future__ import annotations

from typing import Literal

from skerry.updater.store.slots import Situation, reference
from skerry.updater.trust.assignment import Assignment

__all__ = ["Decision", "decide"]

Decision = Literal["nothing", "begin", "resume", "supersede", "withdraw", "known_bad"]


def decide(now: Situation, wanted: Assignment | None) -> Decision:
    """What an assignment means for a device in this situation."""
    update, active = now.update, now.slots.active
    if update is not None:
        if wanted is None:
            return "withdraw"
        same = (update.release, update.manifest) == (
            str(wanted.release),
            reference(wanted.manifest),
        )
        return "resume" if same else "supersede"
    if wanted is None:
        return "nothing"
    if active is not None and active.release == str(wanted.release):
        return "nothing"
    return "known_bad" if now.slots.failure(wanted.release) else "begin"
