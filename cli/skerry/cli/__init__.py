"""The command `skerry`: a table of command → module, imported lazily; nothing else."""

__all__: list[str] = []
