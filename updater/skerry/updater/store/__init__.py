"""What a device holds: blobs, slots, and the journal of the update in progress."""

__all__: list[str] = []
