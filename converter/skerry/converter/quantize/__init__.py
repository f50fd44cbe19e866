"""Quantize once: scales and zero points are decided here, and every format is emitted from them."""

from skerry.converter.quantize.calibrate import calibrate
from skerry.converter.quantize.model import QuantizedModel
from skerry.converter.quantize.scheme import CALIBRATORS, REFINEMENTS, Scheme

__all__ = ["CALIBRATORS", "REFINEMENTS", "QuantizedModel", "Scheme", "calibrate"]
