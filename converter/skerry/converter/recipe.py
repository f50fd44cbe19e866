"""The recipe: a TOML file that says what to convert, on which data, by which steps, to what.

Only its form is here; `recipe_file` reads it and says what is wrong with it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from skerry.converter.emit.support import Level, Precision
from skerry.converter.steps.config import Qat, Step
from skerry.runtime.bundle.card import Format

__all__ = [
    "Build",
    "Calibration",
    "Data",
    "Gate",
    "Input",
    "Mixed",
    "Model",
    "OutputTensor",
    "Quantize",
    "Recipe",
    "Search",
    "Source",
    "Target",
]

_Positive = Annotated[int, Meta(ge=1)]
_Seed = Annotated[int, Meta(ge=0, lt=2**32)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """What the bundle is called.

    Attributes:
        name, version: of the model, as the card carries them.
        labels: class names of the first output's last axis.
    """

    name: str
    version: str = "1"
    labels: tuple[str, ...] = ()


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the model comes from.

    Attributes:
        model: `file.py:factory` of a module or of a fitted scikit-learn estimator; or `.onnx`,
            `.pt2`, `.keras`, `.h5`, or a SavedModel folder.
        weights: safetensors, or a state dict that `torch.load(weights_only=True)` reads; of a
            factory's module alone.
    """

    model: str
    weights: str = ""


class Input(Struct, frozen=True, forbid_unknown_fields=True):
    """One input, in the order of the model's `forward`. What it says is built into the graph.

    Attributes:
        shape: one row as the model takes it, without the batch: [channels, height, width], …
        channels: where they are in `shape`; `last` for models that come from TensorFlow.
        layout: where callers pass them; `same` passes the shape as it is.
        dtype: what callers pass.
        resize_from: [height, width] of what callers pass, where the graph is to scale pictures
            (bilinear) to the size in `shape`.
        scale: what values are multiplied by first; by default 1/255 for uint8 of three axes,
            otherwise 1.
        mean, std: then subtracted and divided by; one number per channel, or one for all.
    """

    shape: Annotated[tuple[_Positive, ...], Meta(min_length=1, max_length=7)]
    channels: Literal["first", "last"] = "first"
    layout: Literal["same", "nchw", "nhwc"] = "same"
    dtype: Literal["float32", "uint8", "int8", "int32", "int64"] = "float32"
    resize_from: tuple[_Positive, _Positive] | None = None
    scale: Annotated[float, Meta(gt=0)] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Meta(gt=0)], ...] = ()

    @property
    def caller_shape(self) -> tuple[int, ...]:
        """One row as callers pass it."""
        if not self.channel_axis_matters:
            return self.shape
        sides = self.resize_from or self.picture_size
        if self.channels_last:
            return (*sides, self.channel_count)
        return (self.channel_count, *sides)

    @property
    def channel_axis_matters(self) -> bool:
        """Whether anything is done to the axes."""
        return self.layout != "same" or self.resize_from is not None

    @property
    def channels_last(self) -> bool:
        """Whether callers pass the channels last."""
        return self.layout == "nhwc" or (self.layout == "same" and self.channels == "last")

    @property
    def channel_count(self) -> int:
        """How many channels one row has."""
        return self.shape[0 if self.channels == "first" else -1]

    @property
    def picture_size(self) -> tuple[int, ...]:
        """Height and width as the model takes them."""
        return self.shape[1:] if self.channels == "first" else self.shape[:-1]

    @property
    def picture(self) -> tuple[int, int, int] | None:
        """Channels, height and width that callers pass of a grey or colour picture, else None."""
        if len(self.shape) != 3 or self.channel_count not in (1, 3):
            return None
        height, width = self.resize_from or self.picture_size
        return (self.channel_count, height, width)

    @property
    def factor(self) -> float:
        """What values are multiplied by first."""
        if self.scale is not None:
            return self.scale
        return 1 / 255 if self.dtype == "uint8" and len(self.shape) == 3 else 1.0


class OutputTensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One output, in the order of the model's.

    Attributes:
        softmax: whether the graph ends in a softmax over the last axis.
        top: how many of the largest are given besides, best first: the values as `NAME_top`, the
            class numbers (int32, places in `model.labels`) as `NAME_labels`; 0 for none.
    """

    softmax: bool = False
    top: Annotated[int, Meta(ge=0, le=1000)] = 0


class Calibration(Struct, frozen=True, forbid_unknown_fields=True):
    """Rows that the ranges of activations are learned from.

    Attributes:
        source: `train`, or data of its own; written `from` in the recipe.
        count: at most this many rows.
        seed: of their choice.
    """

    source: str = msgspec.field(name="from", default="train")
    count: _Positive = 512
    seed: _Seed = 0


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    """Data sets: `.npz`, `.parquet` or `file.py:function`, each giving arrays by input name and
    `label`; or a folder or tar of pictures in class folders.

    Attributes:
        evaluation: held-out rows that every artifact is run on.
        validation: rows by which a search chooses candidates and `quantize.mixed` how many layers
            are raised. Without it a search keeps part of the evaluation rows for that, and
            `quantize.mixed` looks at all of them.
        train: rows for training steps; may be left out where there are none.
        calibration: rows for quantization.
        metric: `top1`, `top5`, or `file.py:function(outputs, labels)` giving points; more is
            better.
    """

    evaluation: str
    validation: str = ""
    train: str = ""
    calibration: Calibration = Calibration()
    metric: str = "top1"


class Mixed(Struct, frozen=True, forbid_unknown_fields=True):
    """Layers that hurt are raised above int8 until the gate holds.

    Attributes:
        levels: what they may be raised to: `int16` activations (weights stay int8), or left in
            floating point with weights in `fp16` or `fp32`; by default all that every target
            format has.
        most: the largest share of the layers that may be raised, 0 to 1; one stays in any case.
        rows: calibration rows on which each layer is tried alone.
    """

    levels: tuple[Literal["int16", "fp16", "fp32"], ...] = ()
    most: _Share = 0.5
    rows: _Positive = 256


class Quantize(Struct, frozen=True, forbid_unknown_fields=True):
    """Which precisions to emit, and how ranges are chosen.

    Attributes:
        precisions: each becomes one artifact per format.
        calibrator: how the range of an activation follows from its values.
        per_channel: whether weights have a scale for each output channel, or one for all: fewer
            bytes where layers are small, and more noise.
        refinements: what is done to lose less, at the price of time: `equalization` of weights
            before calibration, learned rounding (`adaround`) and `bias_correction` after it.
        sparsity: share of each layer's weights, the smallest, that the sparse precisions leave
            out; where a step has pruned as many, nothing changes.
        mixed: raise layers until the gate holds; `{}` for the defaults.
        layers: levels of layers by name, decided by hand; `int8` keeps one from being raised.
    """

    precisions: Annotated[tuple[Precision, ...], Meta(min_length=1)] = ("fp32", "int8")
    calibrator: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] = "mse"
    per_channel: bool = True
    refinements: tuple[Literal["equalization", "adaround", "bias_correction"], ...] = ()
    mixed: Mixed | None = None
    layers: dict[str, Level] = {}
    sparsity: Annotated[float, Meta(gt=0, lt=1)] = 0.5


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """What the artifacts are for.

    Attributes:
        formats: which to emit.
        profile: the hardware they are tuned for, a row of `skerry.devices.targets`.
    """

    formats: Annotated[tuple[Format, ...], Meta(min_length=1)] = ("onnx", "tflite", "coreml")
    profile: str = "x86-64-vnni"


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits that every artifact must keep. A limit left out is not checked.

    Attributes:
        accuracy_drop: most points of the metric below the source.
        bytes_ratio: most bytes, against the source as fp32 in the same format; not of artifacts
            that are fp32 themselves.
        latency_ratio: largest median latency, likewise. Core ML has none: it is not run on its own
            engine here.
        agreement: smallest share of rows whose argmax is the source's, 0 to 1.
        parity: most points of the metric away from the fake-quantized model.
        snr_db: smallest signal-to-noise ratio of the outputs against the model before quantization.
    """

    accuracy_drop: float | None = None
    bytes_ratio: Annotated[float, Meta(gt=0)] | None = None
    latency_ratio: Annotated[float, Meta(gt=0)] | None = None
    agreement: _Share | None = None
    parity: Annotated[float, Meta(ge=0)] | None = None
    snr_db: float | None = None


class Build(Struct, frozen=True, forbid_unknown_fields=True):
    """What makes a build repeatable.

    Attributes:
        seed: of every random choice.
        threads: of training; part of the result, since sums depend on their order.
        device: where training steps run: on a CUDA device where there is one (`auto`), or as said.
        precision: of training before quantization: bfloat16 on a GPU and float32 on a CPU (`auto`),
            or as said; some CPUs are faster in bfloat16.
    """

    seed: _Seed = 0
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class Search(Struct, frozen=True, forbid_unknown_fields=True):
    """What `skerry search` may change, and how it goes about it.

    Attributes:
        space: by dotted key of the recipe, a list of choices or a range `{ low, high, step, log }`;
            `"step[0]" = [true, false]` says whether a step is taken at all.
        rungs: shares of epochs and rows that a candidate is tried on, one after the other; the last
            is 1: the recipe as it is.
        keep: the share of candidates that goes on to the next rung.
        validation: the share of the evaluation rows that candidates are chosen by, where
            `data.validation` names none; the rest play no part in choosing, and judge the front.
        wave: how many candidates are proposed at once, from what earlier waves gave.
        seed: of every proposal.
    """

    space: dict[str, Any]
    rungs: Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(min_length=1)] = (0.25, 1)
    keep: Annotated[float, Meta(gt=0, le=1)] = 0.5
    validation: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    wave: Annotated[int, Meta(ge=1, le=256)] = 5
    seed: _Seed = 0


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole recipe."""

    model: Model
    source: Source
    input: Annotated[dict[str, Input], Meta(max_length=6)]
    data: Data
    output: dict[str, OutputTensor] = {}
    step: tuple[Step, ...] = ()
    quantize: Quantize = Quantize()
    target: Target = Target()
    gate: Gate = Gate()
    build: Build = Build()
    search: Search | None = None

    @property
    def float_steps(self) -> tuple[Step, ...]:
        """The steps before quantization."""
        return tuple(step for step in self.step if not isinstance(step, Qat))

    @property
    def qat(self) -> Qat | None:
        """How the quantized model is trained, if it is."""
        return next((step for step in self.step if isinstance(step, Qat)), None)
