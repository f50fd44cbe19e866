"""Engines: what runs an artifact. One Protocol, one module for each library."""

__all__: list[str] = []
