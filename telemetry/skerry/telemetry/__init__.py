"""What devices tell of themselves, from a call on the device to a row in the fleet's store."""

__all__: list[str] = []
