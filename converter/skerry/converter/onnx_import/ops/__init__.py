"""ONNX's operators, by name. One module a family; each has its own `TABLE`."""

from skerry.converter.onnx_import.call import Kernel
from skerry.converter.onnx_import.ops import (
    activation,
    arithmetic,
    attention,
    cast,
    control,
    conv,
    gather,
    linear,
    loss,
    norm,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    shape,
    signal,
    vision,
)

__all__ = ["OPERATORS"]

OPERATORS: dict[str, Kernel] = {
    name: kernel
    for family in (
        activation,
        arithmetic,
        attention,
        cast,
        control,
        conv,
        gather,
        linear,
        loss,
        norm,
        pool,
        quantize,
        recurrent,
        reduce,
        resize,
        shape,
        signal,
        vision,
    )
    for name, kernel in family.TABLE.items()
}
