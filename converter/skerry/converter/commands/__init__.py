"""The commands of the converter."""

__all__: list[str] = []
