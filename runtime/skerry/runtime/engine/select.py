"""From a format to the engine that runs it, imported only when it is asked for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from skerry.devices.errors import MissingExtraError, UnsupportedError
from skerry.runtime.bundle.card import Format
from skerry.runtime.engine._pinned import pinned
from skerry.runtime.engine.base import Engine, EngineOptions

__all__ = ["available_formats", "available_providers", "open_engine"]


def available_formats() -> tuple[Format, ...]:
    """The formats that something installed here can run. Imports none of it."""
    found: list[Format] = []
    if find_spec("onnxruntime"):
        found.append("onnx")
    if find_spec("ai_edge_litert") or find_spec("tflite_runtime"):
        found.append("tflite")
    return tuple(found)


def available_providers() -> tuple[str, ...]:
    """Execution providers besides the CPU that the ONNX Runtime installed here has, its preferred
    first. Whether the machine has what one drives is told by opening a session with it."""
    if not find_spec("onnxruntime"):
        return ()
    from skerry.runtime.engine.onnxruntime import accelerators

    return accelerators()


def open_engine(format: Format, path: Path, options: EngineOptions | None = None) -> Engine:  # noqa: A002 - the field's own name
    """Load the artifact at `path`, whose digest was checked.

    Raises:
        MissingExtraError: the library for this format is not installed.
        UnsupportedError: nothing runs this format on this operating system, or an execution
            provider of the options is not to be had.
        BundleError: the library refuses the file.
        InputError: a CPU of the options is not for this process to use.
    """
    options = options or EngineOptions()
    with pinned(options.cpus):
        return _open(format, path, options)


def _open(format: Format, path: Path, options: EngineOptions) -> Engine:  # noqa: A002 - the field's own name
    if format == "onnx":
        try:
            from skerry.runtime.engine.onnxruntime import OnnxRuntimeEngine
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "onnx", missing="onnxruntime", needed_by="ONNX artifacts"
            ) from error
        return OnnxRuntimeEngine(path, options)
    if format == "tflite":
        from skerry.runtime.engine.litert import LiteRtEngine

        return LiteRtEngine(path, options)
    raise UnsupportedError(
        f"a {format} artifact does not run on this operating system",
        where=path,
        remedy="choose an ONNX or TFLite artifact of the same bundle",
    )
