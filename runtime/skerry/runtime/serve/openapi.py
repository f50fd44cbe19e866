"""The OpenAPI 3.1 document of what is served, its schemas made from the types that are decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np

from skerry.runtime.prepared import Info
from skerry.runtime.serve.describe import (
    ModelMetadata,
    ModelReady,
    ModelState,
    Readiness,
    ServerMetadata,
)
from skerry.runtime.serve.elements import DATATYPES
from skerry.runtime.serve.tensors import InferRequest, InferResponse

__all__ = ["document"]

_TYPES = (
    *(InferRequest, InferResponse),
    *(ServerMetadata, ModelMetadata, ModelReady, ModelState, Readiness),
)
_REF = "#/components/schemas/{name}"
_JSON, _OCTETS = "application/json", "application/octet-stream"
_LONGEST_EXAMPLE = 256
_TEXT = "text/plain; version=0.0.4; charset=utf-8"

_Schema = dict[str, Any]


def document(infos: Sequence[Info], *, token: bool) -> _Schema:
    """The document.

    Args:
        infos: the models on offer.
        token: whether clients must send one.
    """
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    schemas["Error"] = {
        "type": "object",
        "properties": {"error": {"type": "string", "description": "What is wrong, and where."}},
        "required": ["error"],
    }
    found: _Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "skerry: Open Inference Protocol v2",
            "version": version("skerry"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(infos),
        "components": {"schemas": schemas},
    }
    if token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        found["paths"]["/v2/health/live"]["get"]["security"] = []
    return found


def _paths(infos: Sequence[Info]) -> _Schema:
    model = _parameter("model", [info.model for info in infos])
    number = _parameter("version", [])
    number["description"] = "a version, or a label such as stable"
    if infos:
        number["schema"]["examples"] = sorted({info.version for info in infos})
    paths = {
        "/v2": {"get": _operation("The server", _ref("ServerMetadata"))},
        "/v2/health/live": {"get": _operation("Whether it runs", _flag("live"))},
        "/v2/health/ready": {
            "get": _operation("Whether inferences would be answered", _ref("Readiness"))
        },
        "/v2/repository/index": {"post": _index()},
        "/metrics": {"get": _operation("Prometheus metrics", {"type": "string"}, form=_TEXT)},
        "/openapi.json": {"get": _operation("This document", {"type": "object"})},
    }
    paths["/v2/health/ready"]["get"]["responses"]["503"] = _answer(_ref("Readiness"))
    for base, parameters in (
        ("/v2/models/{model}", [model]),
        ("/v2/models/{model}/versions/{version}", [model, number]),
    ):
        paths[base] = _item(parameters, "get", _of_model("Its signature", "ModelMetadata"))
        ready = _of_model("Whether it would answer", "ModelReady")
        paths[f"{base}/ready"] = _item(parameters, "get", ready)
        paths[f"{base}/infer"] = _item(parameters, "post", _infer(infos))
    for change in ("load", "unload"):
        operation = _operation(f"{change.capitalize()} it", {"type": "object"}, 400, 404, 503)
        paths[f"/v2/repository/models/{{model}}/{change}"] = _item([model], "post", operation)
    return paths


def _item(parameters: list[_Schema], method: str, operation: _Schema) -> _Schema:
    return {"parameters": parameters, method: operation}


def _infer(infos: Sequence[Info]) -> _Schema:
    """An inference: JSON, or JSON and the bytes of tensors after it."""
    operation = _of_model("Infer", "InferResponse", 400, 413, 429, 504)
    content: _Schema = {"schema": _ref("InferRequest")}
    examples = {
        info.model: {"value": {"inputs": inputs}} for info in infos if (inputs := _rows(info))
    }
    if examples:
        content["examples"] = examples
    operation["requestBody"] = {"required": True, "content": {_JSON: content}}
    length = "Inference-Header-Content-Length"
    described = {"description": "How much of the body is JSON; the bytes of tensors follow it."}
    operation["parameters"] = [
        {"name": length, "in": "header", "schema": {"type": "integer", "minimum": 0}} | described
    ]
    answer = operation["responses"]["200"]
    answer["content"][_OCTETS] = {"schema": {"type": "string", "format": "binary"}}
    answer["headers"] = {length: {"schema": {"type": "integer"}} | described}
    return operation


def _rows(info: Info) -> list[_Schema]:
    """A row of zeros for each input of a model; none where that would be long."""
    tensors: list[_Schema] = []
    for spec in info.inputs:
        shape = [max(1, length) for length in spec.shape]
        count = math.prod(shape)
        if count > _LONGEST_EXAMPLE:
            return []
        data = np.zeros(count, spec.dtype).tolist()
        tensors.append(
            {"name": spec.name, "shape": shape, "datatype": DATATYPES[spec.dtype], "data": data}
        )
    return tensors


def _index() -> _Schema:
    states = {"type": "array", "items": _ref("ModelState")}
    operation = _operation("Every model, and whether it is in memory", states, 400, 413)
    ready = {"ready": {"type": "boolean", "description": "Those in memory alone."}}
    operation["requestBody"] = {
        "content": {_JSON: {"schema": {"type": "object", "properties": ready}}}
    }
    return operation


def _of_model(summary: str, name: str, *errors: int) -> _Schema:
    return _operation(summary, _ref(name), 404, 503, *errors)


def _operation(summary: str, schema: _Schema, *errors: int, form: str = _JSON) -> _Schema:
    responses = {"200": _answer(schema, form)}
    for status in sorted({401, 405, *errors}):
        responses[str(status)] = _answer(_ref("Error"))
    return {"summary": summary, "responses": responses}


def _answer(schema: _Schema, form: str = _JSON) -> _Schema:
    return {"description": "", "content": {form: {"schema": schema}}}


def _parameter(name: str, known: list[str]) -> _Schema:
    schema: _Schema = {"type": "string", "minLength": 1}
    if known:
        schema["enum"] = known
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _flag(name: str) -> _Schema:
    return {
        "type": "object",
        "properties": {name: {"type": "boolean"}},
        "required": [name],
    }


def _ref(name: str) -> _Schema:
    return {"$ref": _REF.format(name=name)}
