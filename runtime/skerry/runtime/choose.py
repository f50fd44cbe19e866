"""Which artifact of a bundle suits this device: a rule from the card and the device."""

from __future__ import annotations

from collections.abc import Sequence

from skerry.devices.errors import UnsupportedError
from skerry.runtime.bundle.card import ArtifactSpec, Card

__all__ = ["PRECISIONS", "candidates", "choose"]

PRECISIONS = ("int8", "int8-dynamic", "int8-weights", "int4-weights", "fp32", "fp16")


def choose(
    card: Card,
    formats: Sequence[str],
    *,
    artifact: str | None = None,
    precisions: Sequence[str] = PRECISIONS,
) -> ArtifactSpec:
    """The artifact to run: the best precision that some engine here runs, then the best format.

    Args:
        formats: what this device runs, preferred first (a profile's `formats`).
        artifact: the one asked for by name, if any.
        precisions: preferred first. One that is not named comes after all that are.

    Raises:
        BundleError: there is no artifact of the name asked for.
        UnsupportedError: nothing here runs what was asked for, or any artifact of the bundle.
    """
    return candidates(card, formats, artifact=artifact, precisions=precisions)[0]


def candidates(
    card: Card,
    formats: Sequence[str],
    *,
    artifact: str | None = None,
    precisions: Sequence[str] = PRECISIONS,
) -> tuple[ArtifactSpec, ...]:
    """The artifacts that would do as well as the chosen one but for their format, that one first.

    Arguments and errors are those of `choose`.
    """
    asked = card.artifacts if artifact is None else (card.artifact(artifact),)
    runnable = [item for item in asked if item.format in formats]
    if not runnable:
        names = ", ".join(item.name for item in asked)
        here = ", ".join(formats) or "none"
        raise UnsupportedError(
            f"no engine here runs {names}",
            where=card.model,
            remedy=f"formats that run here: {here}; install an engine, as with"
            " pip install 'skerry[onnx]' or 'skerry[tflite]', or convert again",
        )

    def rank(item: ArtifactSpec) -> tuple[int, int, str]:
        known = item.precision in precisions
        precision = list(precisions).index(item.precision) if known else len(precisions)
        return precision, list(formats).index(item.format), item.name

    ranked = sorted(runnable, key=rank)
    return tuple(item for item in ranked if item.precision == ranked[0].precision)
