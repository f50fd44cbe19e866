"""LiteRT, or tflite-runtime where only that is installed: one interpreter behind a lock."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError, MissingExtraError, UnavailableError
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine._rows import run_in_chunks
from skerry.runtime.engine._turn import turn
from skerry.runtime.engine.base import Arrays, EngineOptions

__all__ = ["LiteRtEngine"]

_LIBRARIES = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))


class LiteRtEngine:
    """`Engine` on a TFLite file.

    The tensors go by the names of the file's one signature; where it has none, and beside them, by
    the tensors' own.

    Args:
        path: the file, whose digest was checked.

    Raises:
        BundleError: the interpreter does not accept the file.
        MissingExtraError: neither library is installed.
    """

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.name, interpreter = _library()
        try:
            self._interpreter = interpreter(model_path=str(path), num_threads=options.threads)
            self._interpreter.allocate_tensors()
            signatures = self._interpreter.get_signature_list()
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"LiteRT refuses it: {error}", where=path) from error
        signature = next(iter(signatures)) if len(signatures) == 1 else None
        self._inputs = self._tensors("inputs", signature)
        self._outputs = self._tensors("outputs", signature)
        self.inputs = tuple(_spec(name, detail) for name, detail in self._inputs.items())
        self.outputs = tuple(_spec(name, detail) for name, detail in self._outputs.items())
        self._aliases = {detail["name"]: name for name, detail in self._inputs.items()}
        self._dynamic = all(spec.shape[:1] == (-1,) for spec in self.inputs)
        self._rows = int(next(iter(self._inputs.values()))["shape"][0])
        self._lock = Lock()

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, NDArray[Any]]:
        """Compute every output. Calls from several threads take turns. One that has begun cannot
        be stopped.

        Raises:
            CancelledError: `until` had come before it was this call's turn.
            UnavailableError: the interpreter failed.
        """
        inputs = {self._aliases.get(name, name): array for name, array in inputs.items()}
        with turn(self._lock, until):
            rows = len(next(iter(inputs.values())))
            if rows == self._rows:
                return self._once(inputs)
            if self._dynamic:
                self._resize(inputs, rows)
                return self._once(inputs)
            return run_in_chunks(self._once, inputs, self._rows)

    def close(self) -> None:
        """Give the interpreter's memory back."""
        del self._interpreter

    def _once(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        try:
            for name, array in inputs.items():
                self._interpreter.set_tensor(self._inputs[name]["index"], array)
            self._interpreter.invoke()
            return {
                name: self._interpreter.get_tensor(detail["index"])
                for name, detail in self._outputs.items()
            }
        except (KeyError, RuntimeError, ValueError) as error:
            raise UnavailableError(f"LiteRT failed: {error}", where="engine") from error

    def _resize(self, inputs: Arrays, rows: int) -> None:
        try:
            for name, array in inputs.items():
                self._interpreter.resize_tensor_input(self._inputs[name]["index"], array.shape)
            self._interpreter.allocate_tensors()
        except (KeyError, RuntimeError, ValueError) as error:
            self._rows = 0
            raise UnavailableError(f"LiteRT failed to resize: {error}", where="engine") from error
        self._rows = rows

    def _tensors(self, side: str, signature: str | None) -> dict[str, dict[str, Any]]:
        """Details of the inputs or outputs by the name they go by here."""
        if side == "inputs":
            details = self._interpreter.get_input_details()
        else:
            details = self._interpreter.get_output_details()
        if signature is None:
            return {detail["name"]: detail for detail in details}
        runner = self._interpreter.get_signature_runner(signature)
        named = runner.get_input_details() if side == "inputs" else runner.get_output_details()
        by_index = {detail["index"]: name for name, detail in named.items()}
        return {by_index.get(detail["index"], detail["name"]): detail for detail in details}


def _library() -> tuple[str, Any]:
    """The name and version of the library that is here, and its Interpreter."""
    for module, package in _LIBRARIES:
        try:
            interpreter = import_module(f"{module}.interpreter").Interpreter
        except ModuleNotFoundError:
            continue
        return f"{package} {version(package)}", interpreter
    raise MissingExtraError("tflite", missing="ai-edge-litert", needed_by="TFLite artifacts")


def _spec(name: str, detail: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(length) for length in detail.get("shape_signature", detail["shape"]))
    return TensorSpec(name, np.dtype(detail["dtype"]).name, shape)
