"""Where the tensors of a model file lie: small, bounded readers of the formats skerry ships."""

from skerry.updater.delta.formats.base import Tensor
from skerry.updater.delta.formats.detect import find_tensors

__all__ = ["Tensor", "find_tensors"]
