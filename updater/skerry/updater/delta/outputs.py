"""Where a patch or its result may be written: to a file, and over none that is read for it."""

from __future__ import annotations

from pathlib import Path

from skerry.devices.errors import InputError

__all__ = ["check_output"]


def check_output(path: Path, **inputs: Path) -> None:
    """See that writing `path` replaces none of `inputs`, by whatever name or link.

    Args:
        path: what is to be written.
        inputs: what is read, each under the word that people know it by.

    Raises:
        InputError: it would, or `path` is a folder.
    """
    if path.is_dir():
        raise InputError("is a folder", where=path, remedy="name a file in it")
    for word, file in inputs.items():
        if _same(path, file):
            problem = f"is the {word} file itself, which would be overwritten"
            raise InputError(problem, where=path, remedy="name another file")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False  # one of them is not there; reading it says so
