"""What a bundle offers for measuring on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.bench.single_stream import Subject
from skerry.devices.errors import InputError
from skerry.runtime.bundle.card import ArtifactSpec
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.engine.base import Engine, EngineOptions
from skerry.runtime.engine.select import available_formats, open_engine
from skerry.runtime.golden import check_outputs

__all__ = ["open_subjects"]


def open_subjects(bundle: Bundle, names: Sequence[str], threads: int) -> list[Subject]:
    """Load artifacts, each with the golden inputs as its queries.

    Args:
        names: artifacts, in the order to report them; every one that runs here where empty.
        threads: compute threads of one call.

    Raises:
        InputError: no artifact of the bundle runs here.
        SkerryError: as `open_engine`.
    """
    formats = available_formats()
    chosen = (
        [bundle.card.artifact(name) for name in names]
        if names
        else [artifact for artifact in bundle.card.artifacts if artifact.format in formats]
    )
    if not chosen:
        raise InputError(
            "no artifact of the bundle runs here",
            where=bundle.card.model,
            remedy="install an engine: pip install 'skerry[onnx,tflite]'",
        )
    bundle.verify()
    golden = bundle.golden()
    options = EngineOptions(threads=threads)
    return [_subject(bundle, artifact, golden, options) for artifact in chosen]


def _subject(
    bundle: Bundle,
    artifact: ArtifactSpec,
    golden: Mapping[str, NDArray[Any]],
    options: EngineOptions,
) -> Subject:
    engine: Engine = open_engine(artifact.format, bundle.path(artifact.blob), options)
    inputs = {
        own: golden[f"input/{spec.name}"]
        for own, spec in zip(artifact.inputs, bundle.card.inputs, strict=True)
    }
    rows = len(next(iter(inputs.values())))

    def check(answers: Sequence[dict[str, NDArray[Any]]]) -> None:
        joined = {name: np.concatenate([a[name] for a in answers]) for name in artifact.outputs}
        check_outputs(bundle.card, artifact, joined, golden)

    return Subject(
        name=artifact.name,
        digest=artifact.blob.digest,
        size=artifact.blob.size,
        engine=engine.name,
        call=engine.run,
        queries=[{name: a[row : row + 1] for name, a in inputs.items()} for row in range(rows)],
        check=check,
    )
