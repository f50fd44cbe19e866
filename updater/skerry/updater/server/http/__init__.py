"""The server's HTTP API and its console, in small routers."""

__all__: list[str] = []
