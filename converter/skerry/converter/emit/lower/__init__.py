"""Exact rewrites of an ONNX graph, one to a file: find what to do, then do it."""

__all__: list[str] = []
