"""What a server tells of itself and its models, whatever protocol asks."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from skerry.devices.errors import UnsupportedError
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.models import Models
from skerry.runtime.prepared import Info
from skerry.runtime.serve.elements import DATATYPES
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.placement import place
from skerry.runtime.serving import State
from skerry.runtime.shelf import Shelf

__all__ = [
    "ModelMetadata",
    "ModelReady",
    "ModelState",
    "Readiness",
    "ServerMetadata",
    "TensorMetadata",
    "find_model",
    "is_ready",
    "load",
    "model_metadata",
    "model_states",
    "readiness",
    "server_metadata",
    "unload",
]


class ServerMetadata(msgspec.Struct, frozen=True):
    """The server, and which extensions of the protocol it speaks."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output: -1 where an axis takes any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """A model: its one version on offer, and its signature."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    parameters: dict[str, Any]


class ModelReady(msgspec.Struct, frozen=True):
    """Whether a model would answer."""

    name: str
    ready: bool


class ModelState(msgspec.Struct, frozen=True):
    """A model of the repository: `READY`, or `UNAVAILABLE` and why."""

    name: str
    version: str
    state: str
    reason: str


def server_metadata() -> ServerMetadata:
    """This server."""
    return ServerMetadata("skerry", version("skerry"), ("binary_tensor_data", "model_repository"))


def find_model(models: Models, name: str, wanted: str | None) -> Info:
    """The model `name`, in the version or of the label `wanted`.

    Raises:
        InputError: there is none.
        UnavailableError: none is active yet.
    """
    return models.info(name, wanted)


class Readiness(msgspec.Struct, frozen=True):
    """Whether inferences are answered at once, why not, and how many wait for the next release."""

    ready: bool
    state: State
    waiting: int


def readiness(models: Models) -> Readiness:
    """Whether inferences would be answered now."""
    return Readiness(models.state == "ready", models.state, models.waiting)


def is_ready(models: Models) -> bool:
    """Whether inferences would be answered at once."""
    return readiness(models).ready


def model_metadata(models: Models, info: Info, limits: ServeLimits) -> ModelMetadata:
    """A model's name, version and signature, and what of it runs here; how, where it is loaded."""
    parameters: dict[str, Any] = {
        "artifact": info.artifact,
        "manifest": info.manifest,
        "labels": list(info.labels),
    }
    runtime = models.loaded(info.model, info.version)
    if runtime is not None and runtime.active is not None:
        parameters["placement"] = place(runtime.active, limits)
    return ModelMetadata(
        info.model,
        (info.version,),
        info.engine.replace(" ", "-"),
        _tensors(info.inputs),
        _tensors(info.outputs),
        parameters,
    )


def model_states(models: Models, *, ready_only: bool = False) -> list[ModelState]:
    """Every model on offer; with `ready_only` those in memory."""
    states = []
    for info in models.infos():
        here = models.loaded(info.model, info.version) is not None
        if here or not ready_only:
            state, reason = ("READY", "") if here else ("UNAVAILABLE", "not in memory")
            states.append(ModelState(info.model, info.version, state, reason))
    return states


def load(models: Models, name: str) -> None:
    """Bring a model into memory. Takes as long as that does.

    Raises:
        InputError: no such model.
        UnavailableError: it cannot be loaded.
    """
    models.info(name)
    if isinstance(models, Shelf):
        models.load(name)


def unload(models: Models, name: str) -> None:
    """Give a model's memory back. It is loaded again when it is asked for.

    Raises:
        InputError: no such model.
        UnsupportedError: it is the only one, and always loaded.
    """
    models.info(name)
    if not isinstance(models, Shelf):
        raise UnsupportedError("this server has one model, and it is always loaded")
    models.unload(name)


def _tensors(specs: tuple[TensorSpec, ...]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(spec.name, DATATYPES[spec.dtype], spec.shape) for spec in specs)
