"""Core ML packages with the same bytes each time: no dates, no random identifiers."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from skerry.converter.emit.mil_constants import share_constants
from skerry.devices.files import write_atomically

__all__ = ["write_package"]

_SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
_WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
# Identifiers within a package only tell its own items apart.
_SPACE = uuid.UUID("6f1d2a0e-5a0b-5f0e-9c57-2f3f0f6c7c11")


def write_package(model: Any, package: Path) -> None:
    """Write a converted ML Program as a package folder.

    Args:
        model: a coremltools MLModel, not saved yet.
        package: the folder to make; it must not exist.
    """
    spec = model.get_spec()
    spec.description.metadata.ClearField("userDefined")
    for function in spec.mlProgram.functions.values():
        share_constants(function)
    weights = Path(model.weights_dir) / "weight.bin" if model.weights_dir else None
    items = [_item("model.mlmodel", "com.apple.CoreML/model.mlmodel", "CoreML Model Specification")]
    (package / _WEIGHTS).parent.mkdir(parents=True)
    write_atomically(package / _SPECIFICATION, spec.SerializeToString(deterministic=True))
    if weights is not None and weights.exists():
        write_atomically(package / _WEIGHTS, weights.read_bytes())
        items.append(_item("weights", "com.apple.CoreML/weights", "CoreML Model Weights"))
    else:
        (package / _WEIGHTS).parent.rmdir()
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": dict(items),
        "rootModelIdentifier": items[0][0],
    }
    text = json.dumps(manifest, indent=4, sort_keys=True) + "\n"
    write_atomically(package / "Manifest.json", text.encode())


def _item(name: str, path: str, description: str) -> tuple[str, dict[str, str]]:
    entry = {
        "author": "com.apple.CoreML",
        "description": description,
        "name": name,
        "path": path,
    }
    return str(uuid.uuid5(_SPACE, path)), entry
