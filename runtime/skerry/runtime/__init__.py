"""Opens a bundle, picks the artifact for this device, and answers predictions, offline."""

__all__: list[str] = []
