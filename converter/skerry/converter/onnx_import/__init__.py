"""ONNX files as trainable PyTorch modules.

`import_onnx` reads an ONNX model (operator sets 13 to the newest that the installed `onnx` knows)
and gives an `nn.Module` that `torch.export` traces: convolutions, linear layers, batch norms and
recurrent layers become PyTorch's own layers, every other float initializer a parameter, and shape
arithmetic stays symbolic, so that a free batch axis stays free. `OPERATORS` is what it knows.
"""

from skerry.converter.onnx_import.load import ImportLimits, import_onnx
from skerry.converter.onnx_import.module import OnnxModule
from skerry.converter.onnx_import.ops import OPERATORS

__all__ = ["OPERATORS", "ImportLimits", "OnnxModule", "import_onnx"]
