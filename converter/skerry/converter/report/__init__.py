"""The report: one HTML file that opens without the internet."""

__all__: list[str] = []
