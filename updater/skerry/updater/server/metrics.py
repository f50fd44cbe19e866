"""The server in numbers, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from skerry.updater.rollout import Rollout
from skerry.updater.server.view import DeviceView

__all__ = ["exposition"]


def exposition(
    devices: Sequence[DeviceView], rollouts: Iterable[Rollout], counters: Mapping[str, int]
) -> str:
    """The text of `/metrics`.

    Args:
        counters: totals of the collector, by name.
    """
    present = [d for d in devices if not d.revoked]
    lines = _family("skerry_devices", "gauge", "enrolled devices by connection")
    for state, online in (("online", True), ("offline", False)):
        count = sum(d.online is online for d in present)
        lines.append(f'skerry_devices{{state="{state}"}} {count}')
    lines += _family("skerry_devices_by_release", "gauge", "devices by the release they run")
    for release, count in sorted(Counter(d.release for d in present).items()):
        lines.append(f'skerry_devices_by_release{{release="{_escaped(release)}"}} {count}')
    lines += _family("skerry_devices_drifted", "gauge", "devices whose data has drifted")
    lines.append(f"skerry_devices_drifted {sum(d.drift == 'drift' for d in present)}")
    lines += _family("skerry_rollouts", "gauge", "rollouts by state")
    for name, count in sorted(Counter(str(r.state) for r in rollouts).items()):
        lines.append(f'skerry_rollouts{{state="{name}"}} {count}')
    for field, text in (
        ("requests", "requests that devices reported"),
        ("errors", "errors that devices reported"),
        ("dropped", "messages that devices lost to their quota"),
    ):
        lines += _family(f"skerry_device_{field}_total", "counter", text)
        for d in devices:
            value = getattr(d, field)
            lines.append(f'skerry_device_{field}_total{{device="{_escaped(d.device)}"}} {value}')
    for name, value in sorted(counters.items()):
        lines += _family(f"skerry_collector_{name}_total", "counter", f"telemetry records {name}")
        lines.append(f"skerry_collector_{name}_total {value}")
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
