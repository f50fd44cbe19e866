"""A reference executor for Core ML ML Programs, which runs where Core ML does not: on Linux.

A release build without a Mac gates a Core ML artifact by what this computes. It follows the MIL
operators' documented semantics and the program's own dtypes: what the program keeps as fp16 is
rounded to fp16 after every operator, and convolutions, products, norms and reductions accumulate
in fp32. It does not imitate the Neural Engine's rounding, nor its fused kernels: expect the last
digit of fp16 to differ on a device, and set tolerances for that.
"""

from skerry.converter.coreml_exec.program import MilLimits, MilProgram

__all__ = ["MilLimits", "MilProgram"]
