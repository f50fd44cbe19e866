"""The runtime as a server: Open Inference Protocol v2 over HTTP."""

__all__: list[str] = []
