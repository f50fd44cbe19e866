"""MIL's operators, by name. One module a family; each has its own `TABLE`."""

from skerry.converter.coreml_exec.call import Kernel
from skerry.converter.coreml_exec.ops import (
    activation,
    constexpr,
    control,
    conv,
    elementwise,
    gather,
    linear,
    norm,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    sampling,
    shape,
    slicing,
)

__all__ = ["OPERATORS"]

OPERATORS: dict[str, Kernel] = {
    name: kernel
    for family in (
        activation,
        constexpr,
        control,
        conv,
        elementwise,
        gather,
        linear,
        norm,
        pool,
        quantize,
        recurrent,
        reduce,
        resize,
        sampling,
        shape,
        slicing,
    )
    for name, kernel in family.TABLE.items()
}
