"""Every artifact against its source: metric, agreement, noise, bytes, latency, gates."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.converter.cache import Cache
from skerry.converter.emit import Emitted
from skerry.converter.gates import Measured, judge
from skerry.converter.keys import Keys
from skerry.converter.loading import Loaded
from skerry.converter.metric import agreement, snr_db
from skerry.converter.models import SOURCE_PRECISION, Models
from skerry.converter.proof import Outputs, ProofLimits, Runner, not_finite, open_runner, pace
from skerry.converter.result import ArtifactResult, Baseline, Latency
from skerry.devices.digest import Descriptor
from skerry.devices.errors import GateError
from skerry.devices.output import Output
from skerry.runtime.bundle.card import Format

__all__ = ["Made", "Proved", "prove", "refuse_not_finite"]

_TIMES = "skerry.latency"


@dataclass(frozen=True)
class Made:
    """An emitted file and the one file that is shipped of it.

    Attributes:
        emitted: what the engine opens.
        blob: digest and size of what is shipped: the file, or the package's tar.
        filename: of what is shipped.
    """

    emitted: Emitted
    blob: Descriptor
    filename: str

    @property
    def shipped(self) -> Path:
        """What is shipped, where it was made."""
        path = self.emitted.path
        return path if path.is_file() else path.with_name(f"{path.name}.tar")

    @property
    def name(self) -> str:
        """`<format>-<precision>`."""
        return f"{self.emitted.format}-{self.emitted.precision}"


@dataclass(frozen=True)
class Proved:
    """An artifact, its verdict, and what it gave for the evaluation set."""

    made: Made
    result: ArtifactResult
    outputs: Outputs


def prove(
    loaded: Loaded,
    models: Models,
    artifacts: Sequence[Made],
    sources: dict[Format, Made],
    keys: Keys,
    kept: Cache,
    output: Output,
) -> tuple[list[Proved], tuple[Baseline, ...]]:
    """Run every artifact on the whole evaluation set and hold it against its source.

    Args:
        sources: the source as fp32, by format.

    Raises:
        GateError: an artifact gives values that are not finite.
    """
    limits = ProofLimits()
    baselines: dict[Format, Baseline] = {}
    proved = []
    total = len(loaded.evaluation) * len(artifacts)
    with output.progress("running every artifact", total) as progress:
        for made in artifacts:
            form = made.emitted.format
            advance = partial(progress.advance, detail=made.name)
            taken = partial(_take, loaded, made, sources[form], limits, advance)
            digests = (str(made.blob.digest), str(sources[form].blob.digest))
            found = kept.arrays(keys.proof(*digests), taken)
            own, fp32 = _latency_of(found.pop(_TIMES))
            refuse_not_finite(made, found)
            baseline = Baseline(form, sources[form].blob.size, fp32)
            baselines.setdefault(form, baseline)
            proved.append(Proved(made, _judge(loaded, models, made, found, baseline, own), found))
    return proved, tuple(baselines.values())


def refuse_not_finite(made: Made, found: Outputs) -> None:
    """Raise GateError where an artifact gives what its source, which is finite, does not."""
    if problem := not_finite(found):
        precision = made.emitted.precision
        raise GateError(
            problem,
            where=made.name,
            remedy=f"scale the layer that overflows, or leave {precision} out of the precisions",
        )


def _open(loaded: Loaded, made: Made) -> Runner:
    signature = loaded.signature
    return open_runner(made.emitted, signature.input_names, signature.output_names)


def _take(
    loaded: Loaded,
    made: Made,
    source: Made,
    limits: ProofLimits,
    advance: Callable[[int], None],
) -> Outputs:
    """The artifact's outputs for the whole evaluation set, and its latency beside its source's.

    A format that has no engine of its own here has no latency.
    """
    runner = _open(loaded, made)
    try:
        found = runner.over(loaded.evaluation, limits, advance)
        times = np.empty((0, 2))
        if made.emitted.format != "coreml":
            baseline = _open(loaded, source)
            try:
                pair = pace(runner, baseline, loaded.evaluation, limits)
            finally:
                baseline.engine.close()
            times = np.array([[one.p50, one.p99] for one in pair])
        return {**found, _TIMES: times}
    finally:
        runner.engine.close()


def _latency_of(times: NDArray[Any]) -> tuple[Latency | None, Latency | None]:
    if not len(times):
        return None, None
    own, fp32 = (Latency(float(p50), float(p99)) for p50, p99 in times)
    return own, fp32


def _judge(
    loaded: Loaded,
    models: Models,
    made: Made,
    found: Outputs,
    baseline: Baseline,
    latency: Latency | None,
) -> ArtifactResult:
    first = loaded.signature.outputs[0].name
    labels = loaded.evaluation.labels
    kept = models.of_precision(made.emitted.precision)
    points = loaded.metric(found, labels)
    ratio = None
    if latency is not None and baseline.latency_ms is not None:
        ratio = round(latency.p50 / baseline.latency_ms.p50, 4)
    floating = models.outputs["floating"]
    floats = [name for name, array in found.items() if array.dtype.kind == "f"] or [first]
    smaller = made.emitted.precision != SOURCE_PRECISION
    measured = Measured(
        accuracy_drop=loaded.metric(models.outputs["source"], labels) - points,
        bytes_ratio=made.blob.size / baseline.bytes if smaller else None,
        latency_ratio=ratio if smaller else None,
        agreement=agreement(models.outputs["source"][first], found[first]),
        parity=abs(points - loaded.metric(models.outputs[kept], labels)),
        snr_db=min(snr_db(floating[name], found[name]) for name in floats),
    )
    return ArtifactResult(
        name=made.name,
        format=made.emitted.format,
        precision=made.emitted.precision,
        path=f"artifacts/{made.filename}",
        bytes=made.blob.size,
        compressed_bytes=len(zlib.compress(made.shipped.read_bytes(), level=9)),
        bytes_ratio=made.blob.size / baseline.bytes,
        sha256=str(made.blob.digest),
        metric=points,
        metric_drop=measured.accuracy_drop,
        agreement=measured.agreement,
        parity=measured.parity,
        reference_agreement=agreement(models.outputs[kept][first], found[first]),
        snr_db=measured.snr_db,
        latency_ms=latency,
        latency_ratio=ratio,
        gates=judge(loaded.file.recipe.gate, measured),
    )
