"""What the control groups of this process grant it: version 2, or version 1 where only that is."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpu_quota", "memory_limit"]

_MOST_GROUPS = 32


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time this process may use; None without a limit.

    The least that its own group or any group around it grants.

    Args:
        root: where `proc` and `sys` are found.
    """
    found = []
    for folder in _groups(root, ""):
        quota, _, period = _first(folder / "cpu.max").partition(" ")
        found.append(_ratio(quota, period))
    for folder in _groups(root, "cpu"):
        quota, period = (_first(folder / f"cpu.cfs_{what}_us") for what in ("quota", "period"))
        found.append(_ratio(quota, period))
    return min((ratio for ratio in found if ratio is not None), default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes of memory this process may use; None without a limit."""
    texts = [_first(folder / "memory.max") for folder in _groups(root, "")]
    texts += [_first(folder / "memory.limit_in_bytes") for folder in _groups(root, "memory")]
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def _groups(root: Path, controller: str) -> list[Path]:
    """This process's group and all around it; `controller` is empty for version 2."""
    top = root / "sys/fs/cgroup" / controller
    path = ""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, named = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            path = named.strip("/")
    # Seen from within its own namespace, a group that is not below the top is the top.
    inner = top / path if ".." not in path.split("/") else top
    found = [inner, *inner.parents][:_MOST_GROUPS]
    return [folder for folder in found if folder.is_relative_to(top)]


def _ratio(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def _first(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
