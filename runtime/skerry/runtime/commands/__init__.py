"""The commands about one bundle on one machine: inspect, verify, diff, predict, run."""

__all__: list[str] = []
