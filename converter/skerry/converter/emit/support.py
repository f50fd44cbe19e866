"""Which format has which precision. Read by the recipe check, before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from skerry.devices.errors import UnsupportedError

__all__ = [
    "LEVELS",
    "PRECISIONS",
    "SUPPORT",
    "Level",
    "Precision",
    "refuse_estimator",
    "refuse_unsupported",
    "supported_levels",
    "unsupported",
    "unsupported_level",
]

Precision = Literal[
    "fp32",
    "fp16",
    "int8",
    "int8-dynamic",
    "int8-weights",
    "int4-weights",
    "palette6-weights",
    "palette4-weights",
    "sparse-weights",
    "sparse-int8-weights",
    "sparse-palette4-weights",
]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_NOT_IN_CORE_ML = {"int8-dynamic": "Core ML cannot quantize activations as they come"}
_ONLY_IN_CORE_ML = {
    "palette6-weights": "weights by look-up table are of Core ML alone",
    "palette4-weights": "weights by look-up table are of Core ML alone",
    "sparse-weights": "weights without their zeros are of Core ML alone",
    "sparse-int8-weights": "weights without their zeros are of Core ML alone",
    "sparse-palette4-weights": "weights without their zeros are of Core ML alone",
}

# (format, precision) → None where it can be emitted, else the reason why not.
SUPPORT: dict[tuple[str, str], str | None] = {
    (fmt, precision): missing.get(precision)
    for fmt, missing in (
        ("onnx", _ONLY_IN_CORE_ML),
        ("tflite", _ONLY_IN_CORE_ML),
        ("coreml", _NOT_IN_CORE_ML),
    )
    for precision in PRECISIONS
}


Level = Literal["int8", "int16", "fp16", "fp32"]  # of one layer in an int8 file
LEVELS: tuple[Level, ...] = get_args(Level)  # the cheapest first

# (format, level of one layer in an int8 file) → why it cannot be emitted.
_LEVELS_REFUSED: dict[tuple[str, str], str] = {
    ("tflite", "int16"): "its converter merges a step from 16 to 8 bits into the layer before it, "
    "which LiteRT refuses",
    ("coreml", "int16"): "Core ML quantizes activations to 8 bits alone",
}


def unsupported_level(fmt: str, level: str) -> str | None:
    """None if a layer of an int8 file of that format can have this level, else why not."""
    return _LEVELS_REFUSED.get((fmt, level))


def supported_levels(formats: Sequence[str]) -> tuple[Level, ...]:
    """The levels above int8 that all these formats have, the cheapest first."""
    return tuple(
        level
        for level in LEVELS
        if level != "int8" and not any(unsupported_level(form, level) for form in formats)
    )


def unsupported(fmt: str, precision: str) -> str | None:
    """None if the format can be emitted in that precision, else the reason why not."""
    if (fmt, precision) in SUPPORT:
        return SUPPORT[fmt, precision]
    formats = sorted({known for known, _ in SUPPORT})
    if fmt not in formats:
        return f"no format {fmt!r}; there are: {', '.join(formats)}"
    return f"no precision {precision!r}; there are: {', '.join(PRECISIONS)}"


def refuse_unsupported(fmt: str, precision: str) -> None:
    """Raise UnsupportedError, with the reason, if the pair cannot be emitted."""
    reason = unsupported(fmt, precision)
    if reason is not None:
        able = [known for known in PRECISIONS if SUPPORT.get((fmt, known), "no") is None]
        raise UnsupportedError(
            reason,
            where=f"{fmt}-{precision}",
            remedy=f"{fmt} can be emitted in: {', '.join(able)}" if able else None,
        )


def refuse_estimator(fmt: str, precision: str) -> None:
    """Raise UnsupportedError unless the pair is the one a scikit-learn estimator comes in."""
    if (fmt, precision) != ("onnx", "fp32"):
        raise UnsupportedError(
            f"a scikit-learn estimator becomes ONNX in fp32 alone, not {fmt} in {precision}",
            where=f"{fmt}-{precision}",
            remedy='set target.formats = ["onnx"] and quantize.precisions = ["fp32"]',
        )
