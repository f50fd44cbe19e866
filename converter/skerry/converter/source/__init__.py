"""What the user brings, made into a module that can be trained and exported."""

__all__: list[str] = []
