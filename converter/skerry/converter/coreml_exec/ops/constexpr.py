"""Compressed weights: what a program keeps small and uses dense."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel
from skerry.converter.coreml_exec.dtypes import BY_NAME, unpack_bits
from skerry.converter.coreml_exec.ops.elementwise import cast_to
from skerry.converter.coreml_exec.ops.quantize import along
from skerry.devices.errors import BundleError

__all__ = ["TABLE"]


def _affine(call: Call) -> Tensor:
    data, scale = call["quantized_data"], call["scale"]
    axis = call.integer("axis")
    zero = along(call["zero_point"], data.ndim, axis)
    return ((data.float() - zero.float()) * along(scale, data.ndim, axis).float()).to(scale.dtype)


def _spread(small: Tensor, shape: torch.Size, call: Call) -> Tensor:
    """`small` repeated by whole blocks to `shape`."""
    for axis, (few, many) in enumerate(zip(small.shape, shape, strict=True)):
        if few == 0 or many % few:
            raise BundleError(
                f"{many} elements are not {few} whole blocks", where=call.operation.where
            )
        if few not in (1, many):
            small = small.repeat_interleave(many // few, axis)
    return small


def _shift_scale(data: Tensor, call: Call) -> Tensor:
    scale, offset = call["scale"], call.get("offset")
    centred = data.float()
    if offset is not None:
        centred = centred - _spread(offset, data.shape, call).float()
    return (centred * _spread(scale, data.shape, call).float()).to(scale.dtype)


def _packed_lut(call: Call) -> Tensor:
    """The older form: one table, indices packed into bytes."""
    lut, shape = call["lut"], call.bounded(call.ints("shape"))
    bits = {2: 1, 4: 2, 8: 3, 16: 4, 64: 6, 256: 8}.get(lut.numel())
    if bits is None:
        raise BundleError(f"a table of {lut.numel()} values", where=call.operation.where)
    packed = call["indices"].numpy()
    count = int(np.prod(shape))
    if packed.size * 8 < count * bits:
        raise BundleError("too few indices for its shape", where=call.operation.where)
    indices = packed[:count] if bits == 8 else unpack_bits(packed, BY_NAME[f"uint{bits}"], count)
    return lut[torch.from_numpy(indices.astype(np.int64))].reshape(shape)


def _lut(indices: Tensor, call: Call) -> Tensor:
    """Tables by block, whose entries may be vectors laid along an axis."""
    lut = call["lut"]
    if lut.ndim != indices.ndim + 2:
        raise BundleError("the table's rank does not fit the indices", where=call.operation.where)
    entries, size = lut.shape[-2:]
    if indices.numel() and int(indices.max()) >= entries:
        raise BundleError("an index lies outside its table", where=call.operation.where)
    blocks = lut.shape[:-2]
    table = torch.arange(int(np.prod(blocks))).reshape(blocks)
    chosen = _spread(table, indices.shape, call) * entries + indices.long()
    vectors = lut.reshape(-1, size)[chosen]
    if size == 1:
        return vectors.squeeze(-1)
    axis = call.integer("vector_axis") % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= size
    return vectors.movedim(-1, axis + 1).reshape(shape)


def _lut_to_dense(call: Call) -> Tensor:
    if "shape" in call:
        return _packed_lut(call)
    return _lut(call["indices"], call)


def _scatter_mask(values: Tensor, mask: Tensor, call: Call) -> Tensor:
    """Zeros with `values` where `mask` is set, in row-major order."""
    chosen = mask.bool()
    if int(chosen.sum()) != values.numel():
        raise BundleError("as many values as mask bits are needed", where=call.operation.where)
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    dense[chosen] = values.reshape(-1)
    return dense


def _sparse_to_dense(call: Call) -> Tensor:
    mask, values = call["mask"], call["nonzero_data"]
    if "shape" in call:
        shape = call.bounded(call.ints("shape"))
        bits = unpack_bits(mask.numpy(), BY_NAME["uint1"], int(np.prod(shape)))
        mask = torch.from_numpy(bits).reshape(shape)
    return _scatter_mask(values, mask, call)


def _lut_to_sparse(call: Call) -> tuple[Tensor, Tensor]:
    mask = call["indices_mask"]
    dense = _lut(_scatter_mask(call["indices_nonzero_data"], mask, call), call)
    size = call["lut"].shape[-1]
    if size > 1:
        mask = mask.repeat_interleave(size, call.integer("vector_axis"))
    return mask, dense[mask.bool()]


def _sparse_shift_scale(call: Call) -> tuple[Tensor, Tensor]:
    mask = call["data_mask"]
    dense = _shift_scale(_scatter_mask(call["nonzero_data"], mask, call), call)
    return mask, dense[mask.bool()]


TABLE: dict[str, Kernel] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": lambda call: _shift_scale(call["data"], call),
    "constexpr_cast": lambda call: cast_to(call["source_val"], call.text("output_dtype"), call),
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_shift_scale,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}
