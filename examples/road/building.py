"""The first half of the road: a teacher, two bundles that are proved, and one that is damaged."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from examples.road.processes import Children
from examples.road.stage import Stage

from skerry.devices.output import human_bytes, table
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle

_DIGITS = Path(__file__).resolve().parents[1] / "digits"


@dataclass(frozen=True)
class Teacher:
    """What training gave."""

    weights: Path
    accuracy: float
    parameters: int


@dataclass(frozen=True)
class Built:
    """What `skerry convert` left: the folder, and its result.json."""

    folder: Path
    result: dict[str, Any]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


def train_teacher(stage: Stage, children: Children, work: Path) -> Teacher:
    with stage.step("Train a teacher on scikit-learn's digits (real scans)"):
        folder = work / "teacher"
        said = children.python(_DIGITS / "train.py", "--out", folder, doing=stage.doing)
        teacher = Teacher(Path(said["weights"]), said["accuracy"], said["parameters"])
        stage.done(
            f"{teacher.accuracy:.2f}% of held-out scans right, {teacher.parameters:,} parameters"
        )
    return teacher


def convert_first(stage: Stage, children: Children, work: Path, teacher: Teacher) -> Built:
    with stage.step("Convert: distill, prune, quantize once, emit ONNX, TFLite and Core ML"):
        built = _convert(stage, children, "recipe.toml", work / "v1", teacher.weights)
    return built


def convert_second(stage: Stage, children: Children, work: Path, first: Built) -> Built:
    with stage.step("The scans drift: fine-tune version 2 on them"):
        weights = first.folder / "model" / "weights.safetensors"
        built = _convert(stage, children, "recipe_v2.toml", work / "v2", weights)
    return built


def _convert(stage: Stage, children: Children, recipe: str, folder: Path, weights: Path) -> Built:
    result = children.skerry(
        "convert", _DIGITS / recipe, "--out", folder, "--set", f"source.weights={weights}",
        doing=stage.doing,
    )  # fmt: skip
    built = Built(folder, result)
    for step in result["steps"]:
        stage.done(f"{step['kind']}: {step['metric']:.2f}% in {step['seconds']:.1f} s")
    for artifact in result["artifacts"]:
        stage.done(
            f"{artifact['name']}: {human_bytes(artifact['bytes'])}, {artifact['metric']:.2f}%, "
            f"{artifact['parity']:.2f} points from the fake-quantized model"
        )
    return built


def damage(work: Path, second: Built) -> Path:
    """Version 3: version 2 with its largest weight turned around after the proof, as a build that
    broke a file on its way would give. Every signature will be right, and the model wrong."""
    source = Bundle.open(second.bundle)
    artifact = source.card.artifact("onnx-int8")
    model = onnx.load_from_string(source.read(artifact.blob))
    weights = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.INT8]
    largest = max(weights, key=lambda weight: len(weight.raw_data))
    largest.raw_data = largest.raw_data[::-1]
    path = work / "v3" / artifact.filename
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    golden = source.golden()
    outputs = {
        spec.name: golden[f"output/{artifact.name}/{spec.name}"] for spec in source.card.outputs
    }
    write_bundle(
        work / "v3" / "bundle",
        model=source.card.model,
        version="3",
        inputs=source.card.inputs,
        outputs=source.card.outputs,
        artifacts=[
            ArtifactFile(
                path=path,
                format=artifact.format,
                precision=artifact.precision,
                inputs=artifact.inputs,
                outputs=artifact.outputs,
                tolerance=artifact.tolerance,
                golden=outputs,
            )
        ],
        golden_inputs={spec.name: golden[f"input/{spec.name}"] for spec in source.card.inputs},
        reference=source.reference(),
        labels=source.card.labels,
    )
    return work / "v3" / "bundle"


def show(stage: Stage, teacher: Teacher, *all_built: Built) -> None:
    """The table of sizes, accuracies and latencies, from each result.json."""
    with stage.step("What was built"):
        rows = []
        for built in all_built:
            result = json.loads((built.folder / "result.json").read_text())
            for artifact in result["artifacts"]:
                latency = artifact["latency_ms"]  # Core ML is executed by a reference, not timed
                rows.append(
                    [
                        built.folder.name,
                        artifact["name"],
                        f"{artifact['bytes']:,}",
                        f"{artifact['metric']:.2f}",
                        f"{artifact['parity']:.2f}",
                        f"{latency['p50']:.3f}" if latency else "–",
                        f"{latency['p99']:.3f}" if latency else "–",
                    ]
                )
        head = ["release", "artifact", "bytes", "top-1 %", "off by, points", "p50 ms", "p99 ms"]
        stage.block(table(head, rows))
        stage.done(f"teacher: {teacher.accuracy:.2f}%")
