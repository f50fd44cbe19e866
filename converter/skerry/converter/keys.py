"""What each piece of cached work depends on."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from skerry.converter.cache import (
    code_fingerprint,
    dataset_fingerprint,
    file_fingerprints,
    fingerprint,
    imported_fingerprints,
    machine,
    module_fingerprint,
)
from skerry.converter.loading import Loaded

__all__ = ["Keys"]


@dataclass(frozen=True)
class Keys:
    """Keys of one conversion; each covers all that its content depends on.

    Attributes:
        source: the model as it was brought, with what the recipe says of its inputs and outputs.
        steps: that and the training rows, with one step more in each.
        trained: the last of them.
        quantized: that, and how ranges are chosen from which rows.
        evaluation: rows and metric.
        tuning: what decides a file besides its precision.
    """

    source: str
    steps: tuple[str, ...]
    trained: str
    quantized: str
    evaluation: str
    tuning: list[object]

    @classmethod
    def of(cls, loaded: Loaded) -> Keys:
        """The keys of what a recipe names."""
        recipe = loaded.file.recipe
        named = {name: path for name, path in loaded.materials.items() if path.suffix != ".toml"}
        data = {".npz", ".parquet", ".tar"}  # known by their rows
        files = {name: path for name, path in named.items() if path.suffix not in data}
        evaluation = fingerprint([dataset_fingerprint(loaded.evaluation), recipe.data.metric])
        source = fingerprint(
            [
                code_fingerprint(),
                file_fingerprints(files) | imported_fingerprints(files.values()),
                module_fingerprint(loaded.model),
                recipe.source.model.rpartition("/")[2],
                msgspec.to_builtins([recipe.input, recipe.output]),
                msgspec.to_builtins(recipe.build),
            ]
        )
        said = [msgspec.to_builtins(step) for step in recipe.float_steps]
        begun = [source, dataset_fingerprint(loaded.train), evaluation, recipe.target.profile]
        begun += [dataset_fingerprint(rows) for _, rows in sorted(loaded.unlabelled.items())]
        steps = tuple(fingerprint([*begun, said[: i + 1]]) for i in range(len(said)))
        trained = steps[-1] if steps else fingerprint([*begun, []])
        rows = dataset_fingerprint(loaded.calibration)
        scheme = recipe.quantize
        how: list[object] = [scheme.calibrator, scheme.per_channel, list(scheme.refinements)]
        how.append(scheme.layers)
        if scheme.mixed is not None:
            gate, formats = msgspec.to_builtins(recipe.gate), list(recipe.target.formats)
            validation = [dataset_fingerprint(loaded.validation), recipe.data.metric]
            how += [msgspec.to_builtins(scheme.mixed), gate, formats, validation]
        profile = recipe.target.profile
        quantized = fingerprint([trained, rows, *how, profile, recipe.qat])
        tuning = [profile, scheme.sparsity]
        return cls(source, steps, trained, quantized, evaluation, tuning)

    def emitted(self, whose: str, form: str, precision: str) -> list[object]:
        """One emitted file."""
        key = {"source": self.source, "floating": self.trained, "quantized": self.quantized}[whose]
        return ["emitted", key, form, precision, *self.tuning]

    def outputs(self, whose: str) -> list[object]:
        """What a model says of the evaluation set."""
        return ["outputs", *self.emitted(whose, "torch", ""), self.evaluation]

    def proof(self, artifact: str, source: str) -> list[str]:
        """What an artifact says of the evaluation set, and its latency beside its source.

        Args:
            artifact, source: digests of the two files.
        """
        return ["proof", artifact, source, self.evaluation, code_fingerprint(), *machine()]
