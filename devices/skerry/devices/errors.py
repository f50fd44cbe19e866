"""The one error tree.

SkerryError (1, a bug unless a subclass says otherwise)
├── InputError (2)               what the caller gave cannot be used
│   ├── RecipeError              a recipe: names file, key and remedy
│   ├── BundleError              a bundle, release or delta is malformed
│   ├── SignatureMismatch        a request does not fit the model's inputs
│   └── UnsupportedError         nothing here can do what was asked (operator, format, scheme)
├── GateError (3)                the work was done, and what came out is not good enough
│   └── GoldenError              an artifact does not reproduce its golden outputs
├── TrustError (4)               a signature, digest, length, version or expiry was refused
│   └── DigestMismatch           bytes are not what their digest says
└── UnavailableError (5)         the network, a peer, the disk: trying again may help
    ├── MissingExtraError        a part of skerry that is not installed; names the extra
    ├── QuotaError               a bounded store or queue is full
    ├── ThrottledError           more was asked than is allowed; says when to ask again
    └── CancelledError           stopped on request; what was done so far is kept or undone

An error says what is wrong, where, and the remedy. Foreign exceptions are wrapped at the seam
where they appear (`raise … from error`); the command line catches `SkerryError` once and exits
with its code.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "BundleError",
    "CancelledError",
    "DigestMismatch",
    "ExitCode",
    "GateError",
    "GoldenError",
    "InputError",
    "MissingExtraError",
    "QuotaError",
    "RecipeError",
    "SignatureMismatch",
    "SkerryError",
    "ThrottledError",
    "TrustError",
    "UnavailableError",
    "UnsupportedError",
]


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0
    BUG = 1
    BAD_INPUT = 2
    GATE_FAILED = 3
    TRUST_REFUSED = 4
    UNAVAILABLE = 5


class SkerryError(Exception):
    """An error that a person can act on.

    Args:
        problem: what is wrong, one sentence without a final full stop.
        where: the file, key, field or address it concerns.
        remedy: what to do about it, one sentence without a final full stop.
    """

    exit_code = ExitCode.BUG

    def __init__(self, problem: str, *, where: object = None, remedy: str | None = None) -> None:
        self.problem = problem
        self.where = None if where is None else str(where)
        self.remedy = remedy
        super().__init__(problem)

    def __str__(self) -> str:
        text = self.problem if self.where is None else f"{self.where}: {self.problem}"
        return text if self.remedy is None else f"{text}; {self.remedy}"


class InputError(SkerryError):
    """What the caller gave cannot be used."""

    exit_code = ExitCode.BAD_INPUT


class RecipeError(InputError):
    """A recipe is wrong. `where` is `file: key`."""


class BundleError(InputError):
    """A bundle, release or delta is malformed."""


class SignatureMismatch(InputError):
    """A request does not fit the model's inputs. `where` names the tensor."""


class UnsupportedError(InputError):
    """Nothing here can do what was asked."""


class GateError(SkerryError):
    """The work was done, and what came out is not good enough."""

    exit_code = ExitCode.GATE_FAILED


class GoldenError(GateError):
    """An artifact does not reproduce its golden outputs on this machine."""


class TrustError(SkerryError):
    """A signature, digest, length, version or expiry was refused."""

    exit_code = ExitCode.TRUST_REFUSED


class DigestMismatch(TrustError):
    """Bytes are not what their digest says."""


class UnavailableError(SkerryError):
    """The network, a peer or the disk cannot serve now; trying again may help."""

    exit_code = ExitCode.UNAVAILABLE


class MissingExtraError(UnavailableError):
    """A part of skerry that is not installed."""

    def __init__(self, extra: str, *, missing: str, needed_by: str | None = None) -> None:
        self.extra = extra
        super().__init__(
            f"needs the package {missing!r}, which is not installed",
            where=needed_by,
            remedy=f"install it with: pip install 'skerry[{extra}]'",
        )


class QuotaError(UnavailableError):
    """A bounded store or queue is full."""


class ThrottledError(UnavailableError):
    """More was asked than is allowed.

    Args:
        retry_s: in how many seconds asking again may help.
    """

    def __init__(self, problem: str, *, retry_s: float, where: object = None) -> None:
        self.retry_s = retry_s
        super().__init__(problem, where=where)


class CancelledError(UnavailableError):
    """Stopped on request."""
