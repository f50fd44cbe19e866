"""`skerry keys` and `skerry release`."""

__all__: list[str] = []
