"""What a conversion leaves behind: bundle, artifacts, model, report and result."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from skerry.converter.documents import bill_of_materials, provenance
from skerry.converter.folder import RESULT
from skerry.converter.loading import Loaded
from skerry.converter.models import INT8, Models
from skerry.converter.proving import Made, Proved
from skerry.converter.report.build import Evidence, build_report
from skerry.converter.result import Baseline, Result, SourceResult
from skerry.converter.steps.base import StepRecord, parameters
from skerry.converter.structure import save_model
from skerry.devices.errors import InputError
from skerry.devices.files import replacing, write_atomically
from skerry.runtime.bundle.card import Tolerance
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle
from skerry.runtime.sketches import SketchSet

__all__ = ["Conversion", "refuse_foreign", "save"]

_GOLDEN_ROWS = 32
_SKETCH_ROWS = 256
_LEVELS = 255


@dataclass(frozen=True)
class Conversion:
    """Everything that was made and measured."""

    loaded: Loaded
    models: Models
    proved: tuple[Proved, ...]
    baselines: tuple[Baseline, ...]
    steps: tuple[StepRecord, ...]


def refuse_foreign(out: Path) -> None:
    """Raise InputError where `bundle/` in the output folder is no bundle, and must stay."""
    bundle = out / "bundle"
    if bundle.exists() and not (bundle / "oci-layout").is_file() and any(bundle.iterdir()):
        raise InputError("the folder holds something else", where=bundle, remedy="name another")


def save(conversion: Conversion, folder: Path) -> Result:
    """Write everything, whole.

    Args:
        folder: gets `bundle/`, `artifacts/`, `model/`, `report.html` and `result.json`; made here.

    Raises:
        BundleError: what was made contradicts itself.
        UnavailableError: the disk is full or not writable.
    """
    loaded, models = conversion.loaded, conversion.models
    result = _result(conversion)
    evidence = _evidence(conversion)
    recipe = loaded.file.recipe
    for name in ("artifacts", "model"):
        (folder / name).mkdir(parents=True)
    for one in conversion.proved:
        with (
            _shipped(one.made).open("rb") as file,
            replacing(folder / "artifacts" / one.made.filename) as target,
        ):
            shutil.copyfileobj(file, target)
    write_atomically(folder / "model" / "weights.safetensors", save_model(models.trained))
    manifest = _bundle(conversion, result, evidence, folder / "bundle")
    result = msgspec.structs.replace(result, manifest=str(manifest))
    write_atomically(folder / "report.html", build_report(result, recipe, evidence, timings=True))
    write_atomically(folder / RESULT, result.encode())
    return result


def _result(conversion: Conversion) -> Result:
    loaded, models = conversion.loaded, conversion.models
    recipe, labels = loaded.file.recipe, loaded.evaluation.labels
    points = {name: loaded.metric(found, labels) for name, found in models.outputs.items()}
    return Result(
        model=recipe.model.name,
        version=recipe.model.version,
        source=SourceResult(
            name=loaded.source.name,
            kind=loaded.source.kind,
            parameters=parameters(loaded.model),
            metric=points["source"],
            rows=len(loaded.evaluation),
            baselines=conversion.baselines,
        ),
        bundle="bundle",
        manifest="",
        metric=recipe.data.metric,
        model_metric=points["floating"],
        quantized_metric=points.get("quantized"),
        parameters=parameters(models.trained),
        artifacts=tuple(one.result for one in conversion.proved),
        steps=conversion.steps,
        layers=models.layers,
        histograms=models.histograms,
        mixed=models.chosen,
        passed=all(one.result.passed for one in conversion.proved),
    )


def _evidence(conversion: Conversion) -> Evidence:
    loaded = conversion.loaded
    first = loaded.signature.outputs[0].name
    return Evidence(
        inputs=next(iter(loaded.evaluation.inputs.values())),
        labels=loaded.evaluation.labels,
        source=conversion.models.outputs["source"][first],
        artifacts={one.made.name: one.outputs[first] for one in conversion.proved},
        names=loaded.labels,
    )


def _shipped(made: Made) -> Path:
    path = made.emitted.path
    return path.with_name(f"{path.name}.tar") if made.emitted.format == "coreml" else path


def _bundle(conversion: Conversion, result: Result, evidence: Evidence, folder: Path) -> object:
    loaded = conversion.loaded
    recipe, data, signature = loaded.file.recipe, loaded.evaluation, loaded.signature
    rows = np.unique(np.linspace(0, len(data) - 1, min(_GOLDEN_ROWS, len(data))).astype(np.intp))
    golden = data.rows(rows).inputs
    descriptor = write_bundle(
        folder,
        model=recipe.model.name,
        version=recipe.model.version,
        inputs=signature.inputs,
        outputs=signature.outputs,
        artifacts=[_artifact_file(one, rows) for one in conversion.proved],
        golden_inputs=golden,
        reference=_reference(conversion),
        labels=loaded.labels,
        documents={
            "report.html": build_report(result, recipe, evidence, timings=False),
            "sbom.cdx.json": bill_of_materials(result, recipe, loaded.materials),
            "provenance.json": provenance(result, recipe, loaded.materials),
        },
    )
    return descriptor.digest


def _artifact_file(proved: Proved, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> ArtifactFile:
    emitted, result = proved.made.emitted, proved.result
    golden = {name: array[rows] for name, array in proved.outputs.items()}
    kept = [one.passed for name, one in result.gates.items() if name != "latency_ratio"]
    return ArtifactFile(
        path=_shipped(proved.made),
        format=emitted.format,
        precision=emitted.precision,
        inputs=tuple(spec.name for spec in emitted.inputs),
        outputs=tuple(spec.name for spec in emitted.outputs),
        tolerance=_tolerance(emitted.precision, proved),
        golden=golden,
        metrics={
            "metric": result.metric,
            "metric_drop": result.metric_drop,
            "agreement": result.agreement,
            "parity": result.parity,
            "snr_db": result.snr_db,
            "gates_passed": float(all(kept)),
        },
    )


def _tolerance(precision: str, proved: Proved) -> Tolerance:
    """How far the same file may be off on another machine.

    Integer kernels differ by a few quantization steps between processors, which add up through the
    layers: a tenth of the output's range. Floats differ in the order of sums.
    """
    outputs = [array for array in proved.outputs.values() if array.dtype.kind == "f"]
    spans = [float(np.ptp(array)) for array in outputs]
    span = max(spans, default=1.0) or 1.0
    if precision == INT8:
        return Tolerance(atol=round(26 * span / _LEVELS, 6), argmax=0.9)
    return Tolerance(atol=round((2e-2 if precision == "fp16" else 1e-3) * span, 6), argmax=0.96)


def _reference(conversion: Conversion) -> bytes:
    """Sketches of the evaluation set, and of what the model that is shipped says of it."""
    data, models = conversion.loaded.evaluation, conversion.models
    outputs = models.outputs.get("quantized", models.outputs["floating"])
    sketches = SketchSet(reference=True)
    for start in range(0, len(data), _SKETCH_ROWS):
        part = slice(start, start + _SKETCH_ROWS)
        sketches.update(
            {name: array[part] for name, array in data.inputs.items()},
            {name: array[part] for name, array in outputs.items()},
        )
    return sketches.encode()
