"""How fast, how big, how hot: measured on the hardware itself."""

__all__: list[str] = []
