"""The source that a recipe names."""

from __future__ import annotations

from pathlib import Path

from skerry.converter.recipe_file import RecipeFile
from skerry.converter.source.base import ModelSource
from skerry.converter.source.pytorch import PyTorchSource
from skerry.devices.errors import InputError

__all__ = ["open_path", "open_source"]


def open_source(file: RecipeFile) -> ModelSource:
    """The source of a recipe, not yet loaded.

    Raises:
        RecipeError: it names a file or function that is not there.
    """
    recipe = file.recipe
    if ".py:" not in recipe.source.model:
        return open_path(file.model_path())
    shapes = tuple(spec.shape for spec in recipe.input.values())
    factory = file.function("source.model", recipe.source.model)
    weights = file.file("source.weights", recipe.source.weights) if recipe.source.weights else None
    return PyTorchSource(factory, weights, shapes)


def open_path(path: Path) -> ModelSource:
    """The source of a model file or SavedModel folder, not yet loaded.

    Raises:
        InputError: it is none that is known.
    """
    if path.suffix == ".onnx":
        from skerry.converter.source.onnx import OnnxSource

        return OnnxSource(path)
    if path.suffix == ".pt2":
        from skerry.converter.source.exported import ExportedSource

        return ExportedSource(path)
    if path.suffix in {".keras", ".h5"}:
        from skerry.converter.source.tensorflow import KerasSource

        return KerasSource(path)
    if (path / "saved_model.pb").is_file():
        from skerry.converter.source.tensorflow import SavedModelSource

        return SavedModelSource(path)
    raise InputError(
        "is no model that can be read",
        where=path,
        remedy="give file.py:factory, .onnx, .pt2, .keras, .h5 or a SavedModel folder",
    )
