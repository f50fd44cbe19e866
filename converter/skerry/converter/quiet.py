"""The frameworks talk a great deal on stderr, where a person wants to see how far the work is."""

from __future__ import annotations

import logging
import os
import warnings

__all__ = ["quieten"]

_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # its notice comes with every import; results stay the same too
}
_LOGGERS = (
    "absl",
    "coremltools",
    "litert_torch",
    "tensorflow",
    "tf2onnx",
    "torch",
    "torch.utils._pytree",
    "torchao",
)


def quieten() -> None:
    """Let errors through alone. To be called before the frameworks are imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
