"""The source that a recipe names."""

from __future__ import annotations

from skerry.converter.recipe_file import RecipeFile
from skerry.converter.source.base import ModelSource
from skerry.converter.source.pytorch import PyTorchSource

__all__ = ["open_source"]


def open_source(file: RecipeFile) -> ModelSource:
    """The source of a recipe, not yet loaded.

    Raises:
        RecipeError: it names a file or function that is not there.
    """
    recipe = file.recipe
    shapes = tuple(spec.shape for spec in recipe.input.values())
    factory = file.function("source.model", recipe.source.model)
    weights = file.file("source.weights", recipe.source.weights) if recipe.source.weights else None
    return PyTorchSource(factory, weights, shapes)
