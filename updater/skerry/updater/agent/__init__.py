"""The device's side of an update: one process that serves, looks for releases, and reports."""

__all__: list[str] = []
