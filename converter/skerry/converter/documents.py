"""Documents that travel with the bundle: a CycloneDX ML-BOM and an in-toto provenance statement.

Neither holds a time or a path of the build machine: the same inputs give the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from skerry.converter.recipe import Recipe
from skerry.converter.result import ArtifactResult, Result
from skerry.devices.digest import digest_file

__all__ = ["bill_of_materials", "library_versions", "provenance"]

_LIBRARIES = (
    "skerry",
    "torch",
    "torchao",
    "torch-pruning",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "litert-torch",
    "ai-edge-litert",
    "coremltools",
    "scikit-learn",
    "skl2onnx",
    "tensorflow-cpu",
    "keras",
    "tf2onnx",
    "numpy",
)
_PATH_FIELDS = {"weights", "train", "validation", "evaluation", "from", "model"}
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:skerry")


def bill_of_materials(result: Result, recipe: Recipe, materials: Mapping[str, Path]) -> bytes:
    """A CycloneDX 1.6 ML-BOM of the model: what it is, what it was made of, and how good it is."""
    documents = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_identity(result)}",
        "version": 1,
        "metadata": {"component": _model(result, recipe)},
        "components": [
            *[_file(name, path) for name, path in sorted(materials.items())],
            *[
                {
                    "type": "library",
                    "name": name,
                    "version": found,
                    "purl": f"pkg:pypi/{name}@{found}",
                }
                for name, found in library_versions().items()
            ],
        ],
    }
    return _json(documents)


def _identity(result: Result) -> uuid.UUID:
    digests = " ".join(artifact.sha256 for artifact in result.artifacts)
    return uuid.uuid5(_NAMESPACE, f"{result.model} {result.version} {digests}")


def _model(result: Result, recipe: Recipe) -> dict[str, Any]:
    metrics = [
        {"type": result.metric, "value": f"{one.metric:.4f}", "slice": one.name}
        for one in result.artifacts
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{result.model}@{result.version}",
        "name": result.model,
        "version": result.version,
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "inputs": [
                    {"format": f"{i.dtype} {list(i.caller_shape)}"} for i in recipe.input.values()
                ],
            },
            "quantitativeAnalysis": {"performanceMetrics": metrics},
        },
        "components": [
            {
                "type": "file",
                "name": one.name,
                "hashes": [{"alg": "SHA-256", "content": one.sha256.partition(":")[2]}],
            }
            for one in result.artifacts
        ],
    }


def _file(name: str, path: Path) -> dict[str, Any]:
    digest = digest_file(path).digest.hex
    return {"type": "data", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}


def provenance(result: Result, recipe: Recipe, materials: Mapping[str, Path]) -> bytes:
    """An in-toto statement v1 with a SLSA provenance v1 predicate: these files, by this recipe."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [_subject(one) for one in result.artifacts],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:skerry:convert:v1",
                "externalParameters": {"recipe": _without_folders(msgspec.to_builtins(recipe))},
                "internalParameters": {"gates": _gates(result.artifacts)},
                "resolvedDependencies": [
                    {"name": name, "digest": {"sha256": digest_file(path).digest.hex}}
                    for name, path in sorted(materials.items())
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:skerry:convert", "version": library_versions()},
            },
        },
    }
    return _json(statement)


def _subject(artifact: ArtifactResult) -> dict[str, Any]:
    return {"name": artifact.name, "digest": {"sha256": artifact.sha256.partition(":")[2]}}


def _gates(artifacts: Sequence[ArtifactResult]) -> dict[str, dict[str, bool]]:
    """What held; latency is left out, since it differs from build to build."""
    return {
        one.name: {
            name: verdict.passed for name, verdict in one.gates.items() if name != "latency_ratio"
        }
        for one in artifacts
    }


def _without_folders(value: Any, field: str = "") -> Any:
    """The recipe as it was used, with the names of files but not where they lay."""
    if isinstance(value, dict):
        return {name: _without_folders(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and field in _PATH_FIELDS:
        return value.rpartition("/")[2]
    return value


def library_versions() -> dict[str, str]:
    """The versions of the libraries that decide what an artifact is."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _json(document: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic")) + b"\n"
