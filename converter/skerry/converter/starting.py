"""`skerry convert --init`: a first recipe, with what can be inferred from the model."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import msgspec

from skerry.converter.recipe import Recipe
from skerry.converter.search.toml_text import toml_string
from skerry.converter.userfile import UserFunction
from skerry.devices.errors import InputError
from skerry.devices.targets import TARGETS

__all__ = ["FoundInput", "first_recipe", "found_inputs"]

_KNOWN_DTYPES = {"float32", "uint8", "int8", "int32", "int64"}
_LONGEST_NAME = 63  # letters, of a model or an input


@dataclass(frozen=True)
class FoundInput:
    """One input of a model.

    Attributes:
        shape: one row, without the batch; 0 where the model leaves the length open.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


def found_inputs(path: Path) -> list[FoundInput]:
    """The inputs of a model file, in order.

    Raises:
        InputError: it is no model that can be read.
    """
    from skerry.converter.source.exported import ExportedSource
    from skerry.converter.source.onnx import OnnxSource
    from skerry.converter.source.select import open_path
    from skerry.converter.source.tensorflow import GraphSource

    source = open_path(path)
    if isinstance(source, ExportedSource):
        return [FoundInput(*one) for one in source.inputs()]
    if isinstance(source, OnnxSource | GraphSource):
        return [FoundInput(*one) for one in source.inputs()]
    raise InputError("its inputs cannot be read", where=path)


def first_recipe(model: str, folder: Path) -> str:
    """A commented recipe for `model`, a path or `file.py:factory` relative to `folder`.

    Raises:
        InputError: there is no such model, or its path cannot stand in a recipe.
    """
    text = _written(model, folder)
    try:
        text.encode()
        msgspec.convert(tomllib.loads(text), Recipe)
    except UnicodeEncodeError as error:
        raise InputError(
            "its path is not UTF-8", where=ascii(model), remedy="give the file another name"
        ) from error
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"no recipe that can be read is inferred: {error}",
            where=model,
            remedy="write one by hand, or change the model",
        ) from error
    return text


def _written(model: str, folder: Path) -> str:
    function = UserFunction.parse(model, folder)
    if function is not None:
        if problem := function.problem():
            raise InputError(problem[0], where=model, remedy=problem[1])
        return _recipe_of_factory(model, function)
    path = (folder / model).resolve()
    remark = "one row as the model takes it, without the batch"
    return _recipe(model, path.stem, found_inputs(path), remark)


def _recipe_of_factory(model: str, function: UserFunction) -> str:
    if features := _features(function):
        inputs = [FoundInput("input", "float32", (features,))]
        remark = "what the estimator was fitted on"
        return _recipe(model, function.name, inputs, remark, choices=_ESTIMATOR)
    inputs = [FoundInput("input", "float32", (3, 224, 224))]
    remark = "correct this: a factory does not say what it takes"
    return _recipe(model, function.name, inputs, remark, weights=_WEIGHTS)


def _recipe(
    model: str,
    stem: str,
    inputs: Sequence[FoundInput],
    remark: str,
    *,
    weights: str = "",
    choices: str = "",
) -> str:
    others = ", ".join(name for name in TARGETS if name != "x86-64-vnni")
    choices = choices or _CHOICES.format(profiles=others)
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower())[:_LONGEST_NAME].strip("-") or "model"
    names = _names([one.name for one in inputs])
    tables = "\n".join(map(_input, inputs, names, repeat(remark)))
    return _TEMPLATE.format(
        name=name, model=toml_string(model), weights=weights, inputs=tables, choices=choices
    )


def _names(given: Sequence[str]) -> list[str]:
    """A name for each input that a recipe takes: letters, digits and `_`, none of them twice."""
    names: list[str] = []
    for one in given:
        plain = re.sub(r"\W", "_", one.partition(":")[0], flags=re.ASCII)
        plain = plain.lstrip("0123456789")[:_LONGEST_NAME] or "input"
        name, number = plain, 2
        while name in names:
            ending = f"_{number}"
            name, number = plain[: _LONGEST_NAME - len(ending)] + ending, number + 1
        names.append(name)
    return names


def _features(function: UserFunction) -> int:
    """How many features the estimator of a factory takes; 0 if it gives none.

    Only a file that imports scikit-learn is run for it.

    Raises:
        InputError: running it failed.
    """
    if not _imports(function.file, "sklearn"):
        return 0
    from skerry.converter.source.estimator import Estimator, is_estimator

    found = function.call()
    return Estimator(found, function).features if is_estimator(found) else 0


def _imports(file: Path, package: str) -> bool:
    for node in ast.walk(ast.parse(file.read_bytes())):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] == package for name in names):
            return True
    return False


def _input(found: FoundInput, name: str, remark: str) -> str:
    shape = ", ".join(str(length or 1) for length in found.shape) or "1"
    open_axes = "; the model leaves a length of 1 open" if 0 in found.shape else ""
    lines = [f"[input.{name}]", f"shape = [{shape}]   # {remark}{open_axes}"]
    if len(found.shape) == 3 and found.shape[-1] in (1, 3) and found.shape[0] not in (1, 3):
        lines.append('channels = "last"')
    dtype = found.dtype if found.dtype in _KNOWN_DTYPES else "float32"
    lines.append(f'dtype = "{dtype}"   # what callers pass; what follows is built into the graph')
    if len(found.shape) == 3 and dtype == "float32":
        lines += _picture_remarks(found.shape)
    return "\n".join(lines) + "\n"


def _picture_remarks(shape: Sequence[int]) -> list[str]:
    count = 3 if 3 in (shape[0], shape[-1]) else 1
    return [
        '# dtype = "uint8"    # pictures as they come: multiplied by 1/255 unless scale says else',
        '# layout = "nhwc"    # callers pass the channels last',
        f"# mean = {[0.5] * count}",
        f"# std = {[0.5] * count}",
    ]


_WEIGHTS = '\nweights = "weights.safetensors"   # or a state dict'
_ESTIMATOR = """\
[quantize]
precisions = ["fp32"]            # all that a scikit-learn estimator comes in

[target]
formats = ["onnx"]               # likewise
"""
_CHOICES = """\
# [[step]]                       # steps are run in this order
# kind = "distill"               # a smaller model learns from this one
# student = "model.py:student"
# epochs = 10
#
# [[step]]
# kind = "prune"                 # whole channels go
# ratio = 0.3
# epochs = 5
#
# [[step]]
# kind = "qat"                   # train the quantized model; the last step
# epochs = 3

[quantize]
precisions = ["fp32", "int8"]    # also fp16, int8-dynamic, int8-weights, int4-weights; of Core ML
                                 # palette6-weights, palette4-weights, sparse-weights,
                                 # sparse-int8-weights, sparse-palette4-weights
calibrator = "mse"               # or minmax, moving_average, percentile, entropy
# refinements = ["adaround", "bias_correction"]   # slower, loses less; also equalization
# mixed = {{}}                     # raise the layers that hurt until the gate holds

[target]
formats = ["onnx", "tflite", "coreml"]
profile = "x86-64-vnni"          # or {profiles}
"""
_TEMPLATE = """\
# What to make of {model}. Paths are relative to this file. Run it with:
#   skerry convert THIS.toml --out out

[model]
name = "{name}"
version = "1"
# labels = ["cat", "dog"]        # class names, by number

[source]
model = {model}{weights}

{inputs}
# [output.scores]                # outputs by name, in the model's order
# softmax = true                 # a softmax at the end of the graph
# top = 3                        # also the 3 largest: scores_top, and their classes: scores_labels

[data]                           # .npz, .parquet, tar or folder of class folders, file.py:function
train = "train.npz"              # arrays named as the inputs, and label
evaluation = "evaluation.npz"    # held out: every artifact is run on all of it
# validation = "validation.npz"  # held out too: what `skerry search` and quantize.mixed choose by
calibration = {{ from = "train", count = 512, seed = 0 }}
metric = "top1"                  # or top5, or file.py:function(outputs, labels)

{choices}
[gate]                           # a gate that fails is exit code 3
accuracy_drop = 1.0              # points of the metric below the source
# bytes_ratio = 0.3              # of the source as fp32
# latency_ratio = 0.6
# agreement = 0.98               # share of answers that are the source's
"""
