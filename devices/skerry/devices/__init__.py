"""What every other part stands on: errors, digests, ids, files, clocks, and the device itself."""

__all__: list[str] = []
