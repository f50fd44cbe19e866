"""Loading a Core ML package and running its program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skerry.converter.coreml_exec.evaluate import Evaluator
from skerry.converter.coreml_exec.graph import Block, Named, TensorType, read_function
from skerry.converter.coreml_exec.package import Package, PackageLimits
from skerry.devices.errors import BundleError, SignatureMismatch, UnavailableError, UnsupportedError
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.base import Arrays

__all__ = ["MilLimits", "MilProgram"]

# What a program that parses but makes no sense runs into, and what PyTorch refuses.
_FAILURES = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MilLimits:
    """What a program may take.

    Attributes:
        package: what its files may be.
        max_elements: elements of one tensor.
        loop_steps: turns of one loop.
        rows: batches of a fixed-batch program that are computed side by side.
    """

    package: PackageLimits = field(default_factory=PackageLimits)
    max_elements: int = 1 << 30
    loop_steps: int = 1 << 16
    rows: int = 64


class MilProgram:
    """`Engine` on a Core ML ML Program. Use `load`.

    A program whose batch axis is fixed takes batches of any length all the same: it is mapped over
    them (`torch.func.vmap`), or run once for each where an operator's result shape hangs on data.
    State (iOS 18) begins at zero in every run.
    """

    name = "skerry MIL reference"

    def __init__(self, block: Block, limits: MilLimits) -> None:
        self._limits = limits
        self._evaluator = Evaluator(max_elements=limits.max_elements, max_steps=limits.loop_steps)
        with torch.no_grad():
            self._block = self._evaluator.fold(block)
        types = {item.name: _tensor_type(item) for item in block.inputs}
        self._types = {name: kind for name, kind in types.items() if not kind.state}
        self._states = {name: kind for name, kind in types.items() if kind.state}
        self.inputs = tuple(_spec(name, kind) for name, kind in self._types.items())
        produced = {item.name: item for operation in block.operations for item in operation.outputs}
        produced |= {item.name: item for item in block.inputs}
        self.outputs = tuple(
            _spec(name, _tensor_type(produced.get(name, Named(name, None))))
            for name in block.outputs
        )
        lengths = {spec.shape[0] if spec.shape else -1 for spec in self.inputs}
        self._fixed = lengths.pop() if len(lengths) == 1 and lengths != {-1} else None
        self._mapped = True

    @classmethod
    def load(cls, path: Path, limits: MilLimits | None = None) -> MilProgram:
        """Read the `.mlpackage` folder at `path`.

        Raises:
            BundleError: not a package of an ML Program, or malformed, or over a limit.
            UnsupportedError: it uses operators or types that are not computed here; every missing
                operator is named.
        """
        from coremltools.proto import Model_pb2
        from google.protobuf.message import DecodeError

        limits = limits or MilLimits()
        package = Package(path, limits.package)
        model = Model_pb2.Model()
        try:
            model.ParseFromString(package.specification())
        except DecodeError as error:
            raise BundleError(f"not a Core ML model: {error}", where=path) from error
        if model.WhichOneof("Type") != "mlProgram":
            raise UnsupportedError(
                f"a {model.WhichOneof('Type')} is not an ML Program",
                where=path,
                remedy='convert with convert_to="mlprogram"',
            )
        name = model.description.defaultFunctionName or "main"
        if name not in model.mlProgram.functions:
            raise BundleError(f"it has no function {name!r}", where=path)
        try:
            block = read_function(model.mlProgram.functions[name], package, limits.max_elements)
            return cls(block, limits)
        except _FAILURES as error:
            raise BundleError(f"a malformed program: {error}", where=path) from error

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute every output for a batch of any length (axis 0).

        Raises:
            SignatureMismatch: the inputs do not fit the program's.
            UnavailableError: the computation failed.
        """
        rows = self._rows(inputs)
        tensors = {spec.name: self._tensor(spec, inputs) for spec in self.inputs}
        try:
            with torch.no_grad():
                if self._fixed is None or rows == self._fixed:
                    found = self._once(tensors)
                else:
                    found = self._many(tensors, rows, self._fixed)
        except _FAILURES as error:
            raise UnavailableError(f"the program failed: {error}", where=self.name) from error
        return {name: value.contiguous().numpy() for name, value in found.items()}

    def inspect(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Every tensor the program computes of one batch, by MIL name, in the order computed.

        Args:
            inputs: as for `run`; where the program's batch is fixed, of that length.

        Raises:
            SignatureMismatch: the inputs do not fit the program's.
            UnavailableError: the computation failed.
        """
        rows = self._rows(inputs)
        if self._fixed not in (None, rows):
            raise SignatureMismatch(
                f"{rows} rows, where {self._fixed} are inspected", where=self.name
            )
        values: dict[str, Any] = {
            **self._fresh_states(),
            **{spec.name: self._tensor(spec, inputs) for spec in self.inputs},
        }
        given = {*values, *self._block.constants}
        try:
            with torch.no_grad():
                self._evaluator.evaluate(self._block, values, keep=True)
        except _FAILURES as error:
            raise UnavailableError(f"the program failed: {error}", where=self.name) from error
        return {
            name: value.contiguous().numpy()
            for name, value in values.items()
            if name not in given and isinstance(value, Tensor)
        }

    def close(self) -> None:
        """Give the weights back."""
        self._block = Block((), (), ())

    def _rows(self, inputs: Arrays) -> int:
        names = {spec.name for spec in self.inputs}
        if set(inputs) != names:
            raise SignatureMismatch(
                f"inputs {sorted(inputs)} were given",
                where=self.name,
                remedy=f"give {sorted(names)}",
            )
        lengths = {array.shape[0] for array in inputs.values() if array.ndim}
        if self._fixed is not None and (len(lengths) != 1 or lengths == {0}):
            raise SignatureMismatch("the inputs differ in length", where=self.name)
        return max(lengths, default=1)

    def _tensor(self, spec: TensorSpec, inputs: Arrays) -> Tensor:
        array = inputs[spec.name]
        given = array.shape if self._fixed is None else (self._fixed, *array.shape[1:])
        fits = len(given) == len(spec.shape) and all(
            wanted in (-1, length) for wanted, length in zip(spec.shape, given, strict=True)
        )
        if not fits:
            raise SignatureMismatch(f"{array.shape} does not fit {spec.shape}", where=spec.name)
        return torch.from_numpy(np.array(array)).to(self._types[spec.name].kind.torch)

    def _once(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._evaluator.evaluate(self._block, {**self._fresh_states(), **tensors})

    def _fresh_states(self) -> dict[str, Any]:
        return {
            name: [torch.zeros(kind.shape or (), dtype=kind.kind.torch)]
            for name, kind in self._states.items()
        }

    def _many(self, tensors: dict[str, Tensor], rows: int, fixed: int) -> dict[str, Tensor]:
        """`rows` rows through a program that takes `fixed`; the last group is filled up."""
        groups = -(-rows // fixed)
        missing = groups * fixed - rows
        grouped = {}
        for name, tensor in tensors.items():
            filled = torch.cat([tensor, *[tensor[-1:]] * missing]) if missing else tensor
            grouped[name] = filled.reshape(groups, fixed, *tensor.shape[1:])
        found = self._map(grouped, groups)
        return {name: value.flatten(0, 1)[:rows] for name, value in found.items()}

    def _map(self, grouped: dict[str, Tensor], groups: int) -> dict[str, Tensor]:
        if self._mapped:
            mapped: Callable[..., dict[str, Tensor]] = torch.func.vmap(
                self._once, chunk_size=self._limits.rows
            )
            try:
                return mapped(grouped)
            except RuntimeError:  # an operator that cannot be mapped: its result hangs on data
                self._mapped = False
        each = [
            self._once({name: tensor[i] for name, tensor in grouped.items()}) for i in range(groups)
        ]
        return {name: torch.stack([found[name] for found in each]) for name in each[0]}


def _tensor_type(item: Named) -> TensorType:
    if item.type is None or item.type.shape is None:
        raise UnsupportedError("not a tensor of known rank", where=item.name)
    return item.type


def _spec(name: str, kind: TensorType) -> TensorSpec:
    dtype = str(kind.kind.torch).removeprefix("torch.")
    return TensorSpec(name, dtype, kind.shape or ())
