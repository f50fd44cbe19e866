"""What the server counts, in the Prometheus text format 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from threading import Lock

from skerry.runtime.prepared import Info

__all__ = ["BUCKETS", "Metrics"]

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """Counts of responses by protocol and status and of inference latency. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._responses: dict[tuple[str, str], int] = {}
        self._counts = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def answered(self, protocol: str, code: str) -> None:
        """One response, over `http` or `grpc`."""
        with self._lock:
            key = (protocol, code)
            self._responses[key] = self._responses.get(key, 0) + 1

    def inferred(self, seconds: float) -> None:
        """One inference, from request to answer."""
        with self._lock:
            self._counts[bisect_left(BUCKETS, seconds)] += 1
            self._seconds += seconds

    def text(self, infos: Sequence[Info]) -> str:
        """The exposition. `infos` is what serves."""
        with self._lock:
            responses, counts, seconds = dict(self._responses), list(self._counts), self._seconds
        lines = [
            "# HELP skerry_responses_total Responses by protocol and status.",
            "# TYPE skerry_responses_total counter",
        ]
        lines += [
            f'skerry_responses_total{{protocol="{protocol}",code="{code}"}} {count}'
            for (protocol, code), count in sorted(responses.items())
        ]
        lines += [
            "# HELP skerry_inference_seconds Time from request to answer.",
            "# TYPE skerry_inference_seconds histogram",
        ]
        total = 0
        for bound, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
            total += count
            lines.append(f'skerry_inference_seconds_bucket{{le="{bound}"}} {total}')
        lines += [
            f"skerry_inference_seconds_sum {seconds:.6f}",
            f"skerry_inference_seconds_count {total}",
            "# HELP skerry_ready Whether a model serves.",
            "# TYPE skerry_ready gauge",
            f"skerry_ready {int(bool(infos))}",
        ]
        if infos:
            lines += [
                "# HELP skerry_model_info What serves.",
                "# TYPE skerry_model_info gauge",
            ]
        for info in infos:
            labels = {
                "model": info.model,
                "version": info.version,
                "artifact": info.artifact,
                "manifest": info.manifest,
                "engine": info.engine,
            }
            pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
            lines.append(f"skerry_model_info{{{pairs}}} 1")
        return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
