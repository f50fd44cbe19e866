"""What loaded releases take of memory, and how another comes in beside them. Rules over sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from skerry.devices.errors import QuotaError

__all__ = ["Footprint", "SwapLimits", "Way", "way_in"]

Way = Literal["beside", "without_previous", "alone"]
"""How a release comes in: beside all that is loaded, after the previous one was closed, or after
the active one was too, while its callers wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """How much memory a loaded artifact is taken to need.

    Attributes:
        per_byte: bytes for each byte of its file.
        each_bytes: bytes besides.
    """

    per_byte: float = 2.0
    each_bytes: int = 2 << 20

    def of(self, size: int) -> int:
        """Bytes of memory for a file of `size` bytes."""
        return int(size * self.per_byte) + self.each_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapLimits:
    """What the releases of one model may take together, and what calls bear while they change.

    Attributes:
        bytes: memory of all that is loaded, as `footprint` estimates it; 0 for no limit.
        drain_s: how long the calls under way may take to end before their release is closed.
        waiting: the most calls that wait while no release is loaded; the next is refused.
        wait_s: how long such a call waits, if its own deadline is not sooner.
    """

    bytes: int = 0
    footprint: Footprint = field(default_factory=Footprint)
    drain_s: float = 10.0
    waiting: int = 256
    wait_s: float = 30.0


def way_in(budget: int, wanted: int, active: int, previous: int) -> Way:
    """How a release of `wanted` bytes comes in, given what is loaded.

    Args:
        budget: of all together; 0 for no limit.
        active, previous: bytes that each takes now; 0 where there is none.

    Raises:
        QuotaError: it does not fit alone.
    """
    if not budget or active + previous + wanted <= budget:
        return "beside"
    if wanted > budget:
        raise QuotaError(
            f"needs about {wanted} bytes of memory, the budget is {budget}",
            where="release",
            remedy="raise the budget or convert to a smaller artifact",
        )
    return "without_previous" if active + wanted <= budget else "alone"
