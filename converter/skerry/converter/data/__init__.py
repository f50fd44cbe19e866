"""Training, calibration and evaluation data."""

__all__: list[str] = []
