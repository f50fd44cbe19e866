"""Names as types. Each is text that was checked once, when it was made."""

from __future__ import annotations

import re
from dataclasses import dataclass

from skerry.devices.errors import InputError

__all__ = ["DeviceId", "ModelName", "ReleaseId", "TenantId"]

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, order=True)
class _Name:
    """1 to 63 of `a-z 0-9 . _ -`, beginning and ending with a letter or digit."""

    text: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.text):
            raise InputError(
                f"{self.text[:80]!r} is not a {type(self).__name__}",
                remedy="use 1 to 63 of a-z 0-9 . _ - with a letter or digit at both ends",
            )

    def __str__(self) -> str:
        return self.text


class DeviceId(_Name):
    """One enrolled machine."""

    __slots__ = ()


class TenantId(_Name):
    """One owner of devices on a server."""

    __slots__ = ()


class ModelName(_Name):
    """A model across its versions."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class ReleaseId:
    """One release of one model, written `digits/3`. The counter only grows, per model."""

    model: ModelName
    counter: int

    def __post_init__(self) -> None:
        if not 1 <= self.counter < 2**53:
            raise InputError(f"release counter {self.counter} is out of range", where=self.model)

    def __str__(self) -> str:
        return f"{self.model}/{self.counter}"

    @classmethod
    def parse(cls, text: str) -> ReleaseId:
        """Read `model/counter`.

        Raises:
            InputError: the text has another form.
        """
        model, slash, counter = text.rpartition("/")
        if not slash or not re.fullmatch(r"[1-9][0-9]{0,15}", counter):
            raise InputError(f"{text[:80]!r} is not a release", remedy="expected model/counter")
        return cls(ModelName(model), int(counter))
