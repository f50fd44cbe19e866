"""What goes into an emitter, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from skerry.devices.errors import InputError
from skerry.devices.targets import Target
from skerry.runtime.bundle.card import Format, TensorSpec

__all__ = ["Emitted", "Signature", "Tuning"]


@dataclass(frozen=True, slots=True)
class Signature:
    """The tensors callers see, in the order of forward's arguments and results."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = self.input_names + self.output_names
        for name in names:
            if not name.isidentifier():
                raise InputError(
                    f"{name!r} cannot name a tensor in every format",
                    where="signature",
                    remedy="use letters, digits and underscores, and begin with a letter",
                )
        if len(set(names)) != len(names):
            raise InputError(
                f"tensor names repeat: {', '.join(names)}",
                where="signature",
                remedy="give every input and output a name of its own",
            )

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(spec.name for spec in self.outputs)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What decides a file besides its precision.

    Attributes:
        target: the hardware it is for; by default x86-64 with VNNI.
        sparsity: share of each layer's weights, the smallest, that a sparse precision leaves out.
    """

    target: Target = field(default_factory=Target)
    sparsity: float = 0.5


@dataclass(frozen=True, slots=True)
class Emitted:
    """One artifact on disk.

    Attributes:
        path: the file; for Core ML the package folder.
        inputs, outputs: the artifact's own tensors, in the order of the signature. Core ML has no
            tensors of 8 or 16 bits, TFLite files here none of 64: they are int32 or float32 there.
    """

    path: Path
    format: Format
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
