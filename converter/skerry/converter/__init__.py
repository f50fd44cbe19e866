"""From a trained model to artifacts proved to answer right. Used in release builds only."""

__all__: list[str] = []
