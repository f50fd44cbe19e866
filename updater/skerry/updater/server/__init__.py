"""The fleet server: who is in the fleet, which release goes where, and what came of it."""

__all__: list[str] = []
