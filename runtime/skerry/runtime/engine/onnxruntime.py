"""ONNX Runtime: explicit threads that do not spin, and no arena that only grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from skerry.devices.errors import (
    BundleError,
    CancelledError,
    UnavailableError,
    UnsupportedError,
)
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine._rows import fixed_batch, run_in_chunks
from skerry.runtime.engine._terminate import TERMINATOR
from skerry.runtime.engine.base import Arrays, EngineOptions, refuse_late

__all__ = ["OnnxRuntimeEngine", "accelerators"]

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(string)": "str",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
_ERRORS_ONLY = 3
_CPU = "CPUExecutionProvider"
_NOT_HERE = frozenset({_CPU, "AzureExecutionProvider"})  # the latter computes in a data centre


def accelerators() -> tuple[str, ...]:
    """The execution providers of this build besides the CPU, its preferred first."""
    return tuple(one for one in onnxruntime.get_available_providers() if one not in _NOT_HERE)


class OnnxRuntimeEngine:
    """`Engine` on an ONNX file.

    Args:
        path: the file, whose digest was checked.

    Raises:
        BundleError: ONNX Runtime does not accept the file.
        UnsupportedError: it cannot use one of the execution providers here.
    """

    def __init__(self, path: Path, options: EngineOptions) -> None:
        wanted = [*options.providers, _CPU]
        for one in options.providers:
            if one not in accelerators():
                raise _unsupported(one)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), _session_options(options), providers=wanted
            )
        except Exception as error:
            raise BundleError(f"ONNX Runtime refuses it: {error}", where=path) from error
        used = self._session.get_providers()
        for one in options.providers:
            if one not in used:
                raise _unsupported(one)
        build = "".join(f"+{one.removesuffix('ExecutionProvider')}" for one in options.providers)
        self.name = f"onnxruntime{build} {onnxruntime.__version__}"
        self.inputs = tuple(_spec(arg) for arg in self._session.get_inputs())
        self.outputs = tuple(_spec(arg) for arg in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._texts = [spec.name for spec in self.outputs if spec.dtype == "str"]
        self._fixed = fixed_batch(self.inputs)
        # The session below its wrapper: names were checked against the card, and the wrapper would
        # move to another provider on a failure, telling stdout.
        self._call = getattr(self._session, "_sess", self._session).run
        self._plain = onnxruntime.RunOptions()

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, NDArray[Any]]:
        """Compute every output. A run is ended between two operators when `until` has come.

        Raises:
            CancelledError: `until` has come.
            UnavailableError: the engine failed.
        """
        if until is None:
            return self._run(inputs, self._plain)
        refuse_late(until)
        with TERMINATOR.watching(until) as options:
            return self._run(inputs, options)

    def close(self) -> None:
        """Give the session's memory back."""
        del self._call, self._session

    def _run(self, inputs: Arrays, options: onnxruntime.RunOptions) -> dict[str, NDArray[Any]]:
        if self._fixed is None or len(next(iter(inputs.values()))) == self._fixed:
            return self._once(inputs, options)
        return run_in_chunks(lambda chunk: self._once(chunk, options), inputs, self._fixed)

    def _once(self, inputs: Arrays, options: onnxruntime.RunOptions) -> dict[str, NDArray[Any]]:
        try:
            values = self._call(self._names, inputs, options)
        except Exception as error:
            if options.terminate:
                raise CancelledError("stopped at the deadline", where="engine") from error
            raise UnavailableError(f"ONNX Runtime failed: {error}", where="engine") from error
        found = dict(zip(self._names, values, strict=True))
        for name in self._texts:
            found[name] = found[name].astype(np.str_)
        return found


def _session_options(options: EngineOptions) -> onnxruntime.SessionOptions:
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = options.threads
    session.inter_op_num_threads = 1
    session.enable_cpu_mem_arena = False
    session.log_severity_level = _ERRORS_ONLY
    session.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return session


def _unsupported(provider: str) -> UnsupportedError:
    return UnsupportedError(
        f"ONNX Runtime cannot use {provider[:80]!r} here",
        where="providers",
        remedy=f"this build has {', '.join(accelerators()) or 'the CPU alone'}",
    )


def _spec(arg: Any) -> TensorSpec:
    if arg.type not in _DTYPES:
        raise BundleError(f"{arg.type} is not a dtype skerry carries", where=arg.name)
    shape = tuple(length if isinstance(length, int) else -1 for length in arg.shape)
    return TensorSpec(arg.name, _DTYPES[arg.type], shape)
