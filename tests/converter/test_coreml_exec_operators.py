"""Operator by operator: programs written with coremltools' builder, against PyTorch and numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil.mil import Builder as mb
from torch import Tensor

from fakes.mlpackage import from_mil

_X = (2, 4, 6, 6)
_RNG = np.random.default_rng(0)


def _random(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


_CHANNELS = _random(4)
_WEIGHT = _random(4, 4, 3, 3)
_UP = _random(4, 3, 3, 3)
_INDEX = np.array([3, 0, -2], np.int32)
_MASK = _random(2, 4, 6, 6) > 0
_ALONG = _RNG.integers(0, 6, (2, 4, 6, 3)).astype(np.int32)
_LENGTHS = np.array([4, 2], np.int32)

Case = tuple[Callable[[Any], Any], Callable[[Tensor], Tensor | np.ndarray]]


def _sum_of_squares(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True)


def _reverse_lengths(x: Tensor) -> Tensor:
    y = x.clone()
    for row, length in enumerate(_LENGTHS):
        y[row, :, :length] = x[row, :, :length].flip(1)
    return y


def _put(x: Tensor, index: list[int], rows: Tensor, mode: str) -> Tensor:
    y = x.clone()
    for position, at in enumerate(index):
        row = rows[:, position]
        y[:, at] = {"update": row, "add": y[:, at] + row, "max": torch.maximum(y[:, at], row)}[mode]
    return y


_UPDATES = _random(2, 3, 6, 6)
_ACTIVATIONS: dict[str, Case] = {
    "clamped_relu": (
        lambda x: mb.clamped_relu(x=x, alpha=0.3, beta=0.8),
        lambda x: F.leaky_relu(x, 0.3).clamp(max=0.8),
    ),
    "elu": (lambda x: mb.elu(x=x, alpha=0.7), lambda x: F.elu(x, 0.7)),
    "gelu": (lambda x: mb.gelu(x=x, mode="EXACT"), F.gelu),
    "gelu_tanh": (
        lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "gelu_sigmoid": (
        lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "leaky_relu": (lambda x: mb.leaky_relu(x=x, alpha=0.2), lambda x: F.leaky_relu(x, 0.2)),
    "linear_activation": (
        lambda x: mb.linear_activation(x=x, alpha=2.0, beta=0.5),
        lambda x: 2 * x + 0.5,
    ),
    "prelu": (
        lambda x: mb.prelu(x=x, alpha=_CHANNELS),
        lambda x: F.prelu(x, torch.from_numpy(_CHANNELS)),
    ),
    "relu": (lambda x: mb.relu(x=x), F.relu),
    "relu6": (lambda x: mb.relu6(x=x), F.relu6),
    "scaled_tanh": (
        lambda x: mb.scaled_tanh(x=x, alpha=1.5, beta=0.5),
        lambda x: 1.5 * torch.tanh(0.5 * x),
    ),
    "sigmoid": (lambda x: mb.sigmoid(x=x), torch.sigmoid),
    "sigmoid_hard": (
        lambda x: mb.sigmoid_hard(x=x, alpha=0.3, beta=0.4),
        lambda x: (0.3 * x + 0.4).clamp(0, 1),
    ),
    "silu": (lambda x: mb.silu(x=x), F.silu),
    "softmax": (lambda x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
    "softplus": (lambda x: mb.softplus(x=x), F.softplus),
    "softplus_parametric": (
        lambda x: mb.softplus_parametric(x=x, alpha=_CHANNELS, beta=np.abs(_CHANNELS)),
        lambda x: (
            torch.from_numpy(_CHANNELS).reshape(4, 1, 1)
            * F.softplus(x * torch.from_numpy(np.abs(_CHANNELS)).reshape(4, 1, 1))
        ),
    ),
    "softsign": (lambda x: mb.softsign(x=x), F.softsign),
    "thresholded_relu": (
        lambda x: mb.thresholded_relu(x=x, alpha=0.4),
        lambda x: torch.where(x >= 0.4, x, torch.zeros_like(x)),
    ),
}
_ELEMENTWISE: dict[str, Case] = {
    **{
        name: (lambda x, name=name: getattr(mb, name)(x=x), function)
        for name, function in {
            "abs": torch.abs,
            "atan": torch.atan,
            "ceil": torch.ceil,
            "cos": torch.cos,
            "cosh": torch.cosh,
            "erf": torch.erf,
            "exp": torch.exp,
            "exp2": torch.exp2,
            "floor": torch.floor,
            "identity": lambda x: x,
            "round": torch.round,
            "sign": torch.sign,
            "sin": torch.sin,
            "sinh": torch.sinh,
            "square": torch.square,
            "tan": torch.tan,
            "tanh": torch.tanh,
        }.items()
    },
    "acos": (lambda x: mb.acos(x=mb.tanh(x=x)), lambda x: torch.acos(torch.tanh(x))),
    "asin": (lambda x: mb.asin(x=mb.tanh(x=x)), lambda x: torch.asin(torch.tanh(x))),
    "atanh": (
        lambda x: mb.atanh(x=mb.mul(x=mb.sigmoid(x=x), y=np.float32(0.9))),
        lambda x: torch.atanh(torch.sigmoid(x) * 0.9),
    ),
    "cast": (
        lambda x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp32"),
        lambda x: x.trunc(),
    ),
    "clip": (lambda x: mb.clip(x=x, alpha=-0.2, beta=0.7), lambda x: x.clamp(-0.2, 0.7)),
    "floor_div": (lambda x: mb.floor_div(x=x, y=np.float32(0.7)), lambda x: torch.floor(x / 0.7)),
    "inverse": (
        lambda x: mb.inverse(x=mb.exp(x=x), epsilon=0.5),
        lambda x: 1 / (torch.exp(x) + 0.5),
    ),
    "log": (lambda x: mb.log(x=mb.exp(x=x), epsilon=0.5), lambda x: (x.exp() + 0.5).log()),
    "logical": (
        lambda x: mb.cast(
            x=mb.logical_xor(
                x=mb.logical_or(x=mb.greater(x=x, y=1.0), y=mb.less(x=x, y=-1.0)),
                y=mb.logical_not(x=mb.logical_and(x=mb.less_equal(x=x, y=0.0), y=_MASK)),
            ),
            dtype="fp32",
        ),
        lambda x: (((x > 1) | (x < -1)) ^ ~((x <= 0) & torch.from_numpy(_MASK))).float(),
    ),
    "maximum": (lambda x: mb.maximum(x=x, y=np.float32(0.2)), lambda x: x.clamp(min=0.2)),
    "minimum": (lambda x: mb.minimum(x=x, y=np.float32(0.2)), lambda x: x.clamp(max=0.2)),
    "mod": (lambda x: mb.mod(x=x, y=np.float32(0.75)), lambda x: torch.remainder(x, 0.75)),
    "pow": (lambda x: mb.pow(x=mb.exp(x=x), y=np.float32(1.3)), lambda x: torch.exp(x) ** 1.3),
    "real_div": (lambda x: mb.real_div(x=x, y=np.float32(3)), lambda x: x / 3),
    "rsqrt": (lambda x: mb.rsqrt(x=mb.exp(x=x)), lambda x: torch.exp(x).rsqrt()),
    "select": (
        lambda x: mb.select(cond=_MASK, a=x, b=mb.mul(x=x, y=np.float32(2))),
        lambda x: torch.where(torch.from_numpy(_MASK), x, 2 * x),
    ),
    "sqrt": (lambda x: mb.sqrt(x=mb.exp(x=x)), lambda x: torch.exp(x).sqrt()),
    "threshold": (lambda x: mb.threshold(x=x, alpha=0.1), lambda x: x.clamp(min=0.1)),
}
_REDUCTIONS: dict[str, Case] = {
    "argmax": (
        lambda x: mb.reduce_argmax(x=x, axis=2, keep_dims=False),
        lambda x: x.argmax(2).int(),
    ),
    "argmin": (
        lambda x: mb.reduce_argmin(x=x, axis=-1, keep_dims=True),
        lambda x: x.argmin(-1, keepdim=True).int(),
    ),
    "l1": (lambda x: mb.reduce_l1_norm(x=x, axes=[1]), lambda x: x.abs().sum(1)),
    "l2": (
        lambda x: mb.reduce_l2_norm(x=x, axes=[1, 2, 3], keep_dims=True),
        lambda x: _sum_of_squares(x).sqrt(),
    ),
    "log_sum": (
        lambda x: mb.reduce_log_sum(x=mb.exp(x=x), axes=[-1]),
        lambda x: torch.exp(x).sum(-1).log(),
    ),
    "log_sum_exp": (
        lambda x: mb.reduce_log_sum_exp(x=x, axes=[2, 3]),
        lambda x: x.logsumexp((2, 3)),
    ),
    "max": (lambda x: mb.reduce_max(x=x, axes=[1, 3]), lambda x: x.amax((1, 3))),
    "mean": (lambda x: mb.reduce_mean(x=x, axes=[-1, -2]), lambda x: x.mean((-1, -2))),
    "min": (lambda x: mb.reduce_min(x=x, axes=[0]), lambda x: x.amin(0)),
    "prod": (lambda x: mb.reduce_prod(x=x, axes=[2]), lambda x: x.prod(2)),
    "sum": (lambda x: mb.reduce_sum(x=x, axes=[1], keep_dims=True), lambda x: x.sum(1, True)),
    "sum_square": (
        lambda x: mb.reduce_sum_square(x=x, axes=[1, 2, 3], keep_dims=True),
        _sum_of_squares,
    ),
}
_LAYERS: dict[str, Case] = {
    "avg_pool_ceil": (
        lambda x: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            ceil_mode=True,
            exclude_padding_from_average=True,
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    "avg_pool_ceil_counting": (
        lambda x: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            ceil_mode=True,
            exclude_padding_from_average=False,
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    ),
    "avg_pool_same": (
        lambda x: mb.avg_pool(
            x=x, kernel_sizes=[2, 2], pad_type="same", exclude_padding_from_average=False
        ),
        lambda x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1),
    ),
    "batch_norm": (
        lambda x: mb.batch_norm(
            x=x, mean=_CHANNELS, variance=np.abs(_CHANNELS), gamma=_CHANNELS, beta=_CHANNELS
        ),
        lambda x: F.batch_norm(
            x, *map(torch.from_numpy, (_CHANNELS, np.abs(_CHANNELS), _CHANNELS, _CHANNELS))
        ),
    ),
    "conv": (
        lambda x: mb.conv(x=x, weight=_WEIGHT, bias=_CHANNELS, pad_type="same", strides=[2, 2]),
        lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1)), *map(torch.from_numpy, (_WEIGHT, _CHANNELS)), 2),
    ),
    "conv_same_lower": (
        lambda x: mb.conv(x=x, weight=_WEIGHT, pad_type="same_lower", strides=[2, 2]),
        lambda x: F.conv2d(F.pad(x, (1, 0, 1, 0)), torch.from_numpy(_WEIGHT), stride=2),
    ),
    "conv_grouped": (
        lambda x: mb.conv(
            x=x, weight=_WEIGHT[:, :2], groups=2, pad_type="custom", pad=[1, 0, 2, 1]
        ),
        lambda x: F.conv2d(F.pad(x, (2, 1, 1, 0)), torch.from_numpy(_WEIGHT[:, :2]), groups=2),
    ),
    "conv_transpose": (
        lambda x: mb.conv_transpose(x=x, weight=_UP, strides=[2, 2], pad_type="valid"),
        lambda x: F.conv_transpose2d(x, torch.from_numpy(_UP), stride=2),
    ),
    "conv_transpose_same": (
        lambda x: mb.conv_transpose(x=x, weight=_UP, strides=[2, 2], pad_type="same"),
        lambda x: F.conv_transpose2d(x, torch.from_numpy(_UP), stride=2)[:, :, :12, :12],
    ),
    "einsum": (
        lambda x: mb.einsum(
            values=(x, mb.transpose(x=x, perm=[0, 3, 2, 1])), equation="nchw,nwhu->nchu"
        ),
        lambda x: torch.einsum("nchw,nwhu->nchu", x, x.permute(0, 3, 2, 1)),
    ),
    "matmul": (
        lambda x: mb.matmul(x=x, y=x, transpose_y=True),
        lambda x: x @ x.mT,
    ),
    "instance_norm": (
        lambda x: mb.instance_norm(x=x, gamma=_CHANNELS, beta=_CHANNELS),
        lambda x: F.instance_norm(
            x, weight=torch.from_numpy(_CHANNELS), bias=torch.from_numpy(_CHANNELS)
        ),
    ),
    "l2_norm": (
        lambda x: mb.l2_norm(x=x),
        lambda x: x / (_sum_of_squares(x) + 1e-6).sqrt(),
    ),
    "l2_pool": (
        lambda x: mb.l2_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"),
        lambda x: F.lp_pool2d(x, 2, 2),
    ),
    "layer_norm": (
        lambda x: mb.layer_norm(x=x, axes=[1, 3], epsilon=1e-3),
        lambda x: F.layer_norm(x.transpose(2, 1), (4, 6), eps=1e-3).transpose(2, 1),
    ),
    "local_response_norm": (
        lambda x: mb.local_response_norm(x=x, size=3, alpha=0.1, beta=0.6, k=1.5),
        lambda x: F.local_response_norm(x, 3, 0.1, 0.6, 1.5),
    ),
    "linear": (
        lambda x: mb.linear(x=x, weight=_WEIGHT.reshape(24, 6), bias=_WEIGHT.reshape(24, 6)[:, 0]),
        lambda x: F.linear(
            x, *map(torch.from_numpy, (_WEIGHT.reshape(24, 6), _WEIGHT.reshape(24, 6)[:, 0]))
        ),
    ),
    "max_pool_ceil": (
        lambda x: mb.max_pool(
            x=x,
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="custom",
            pad=[0, 0, 0, 0],
            ceil_mode=True,
        ),
        lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    ),
    "attention": (
        lambda x: mb.scaled_dot_product_attention(query=x, key=x, value=x),
        lambda x: F.scaled_dot_product_attention(x, x, x),
    ),
    "quantize": (
        lambda x: mb.dequantize(
            input=mb.quantize(
                input=x,
                scale=np.abs(_CHANNELS) / 20,
                zero_point=np.array([0, 3, -9, 1], np.int8),
                output_dtype="int8",
                axis=1,
            ),
            scale=np.abs(_CHANNELS) / 20,
            zero_point=np.array([0, 3, -9, 1], np.int8),
            axis=1,
        ),
        lambda x: torch.fake_quantize_per_channel_affine(
            x,
            torch.from_numpy(np.abs(_CHANNELS) / 20),
            torch.tensor([0, 3, -9, 1], dtype=torch.int32),
            1,
            -128,
            127,
        ),
    ),
}
_SHAPES: dict[str, Case] = {
    "band_part": (
        lambda x: mb.band_part(x=x, lower=1, upper=2),
        lambda x: x.triu(-1).tril(2),
    ),
    "batch_to_space": (
        lambda x: mb.batch_to_space(
            x=mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[1, 1], [0, 0]]),
            block_shape=[2, 3],
            crops=[[1, 1], [0, 0]],
        ),
        lambda x: x,
    ),
    "concat": (lambda x: mb.concat(values=[x, x], axis=-1), lambda x: torch.cat([x, x], -1)),
    "concat_interleaved": (
        lambda x: mb.concat(values=[x, mb.relu(x=x)], axis=1, interleave=True),
        lambda x: torch.stack([x, F.relu(x)], 2).flatten(1, 2),
    ),
    "crop": (
        lambda x: mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3]),
        lambda x: x[:, :, 1:-2, :-3],
    ),
    "cumsum": (
        lambda x: mb.cumsum(x=x, axis=2, exclusive=True, reverse=True),
        lambda x: x.flip(2).cumsum(2).flip(2) - x,
    ),
    "depth_to_space": (
        lambda x: mb.depth_to_space(x=mb.space_to_depth(x=x, block_size=2), block_size=2),
        lambda x: x,
    ),
    "expand_dims": (
        lambda x: mb.expand_dims(
            x=mb.squeeze(x=mb.expand_dims(x=x, axes=[-3]), axes=[2]), axes=[0]
        ),
        lambda x: x.unsqueeze(0),
    ),
    "fill_like": (
        lambda x: mb.fill_like(ref_tensor=x, value=2.5),
        lambda x: torch.full_like(x, 2.5),
    ),
    "flatten2d": (lambda x: mb.flatten2d(x=x, axis=2), lambda x: x.reshape(8, 36)),
    "gather": (lambda x: mb.gather(x=x, indices=_INDEX, axis=1), lambda x: x[:, [3, 0, 2]]),
    "gather_batched": (
        lambda x: mb.gather(
            x=x, indices=np.array([[1, 0], [2, 2]], np.int32), axis=2, batch_dims=1
        ),
        lambda x: torch.stack([x[0][:, [1, 0]], x[1][:, [2, 2]]]),
    ),
    "gather_along_axis": (
        lambda x: mb.gather_along_axis(x=x, indices=_ALONG, axis=-1),
        lambda x: x.gather(3, torch.from_numpy(_ALONG).long()),
    ),
    "gather_nd": (
        lambda x: mb.gather_nd(x=x, indices=np.array([[1, 3], [0, -1]], np.int32)),
        lambda x: torch.stack([x[1, 3], x[0, 3]]),
    ),
    "one_hot": (
        lambda x: mb.one_hot(
            indices=mb.reduce_argmax(x=x, axis=1),
            one_hot_vector_size=5,
            axis=1,
            on_value=2.0,
            off_value=-1.0,
        ),
        lambda x: F.one_hot(x.argmax(1), 5).permute(0, 3, 1, 2) * 3.0 - 1,
    ),
    "pad_constant": (
        lambda x: mb.pad(x=x, pad=[1, 2, 0, 1], constant_val=3.0),
        lambda x: F.pad(x, (0, 1, 1, 2), value=3.0),
    ),
    "pad_reflect": (
        lambda x: mb.pad(x=x, pad=[1, 2, 2, 1], mode="reflect"),
        lambda x: F.pad(x, (2, 1, 1, 2), mode="reflect"),
    ),
    "pad_replicate": (
        lambda x: mb.pad(x=x, pad=[1, 2, 2, 1], mode="replicate"),
        lambda x: F.pad(x, (2, 1, 1, 2), mode="replicate"),
    ),
    "pixel_shuffle": (
        lambda x: mb.pixel_shuffle(x=x, upscale_factor=2),
        lambda x: F.pixel_shuffle(x, 2),
    ),
    "pixel_unshuffle": (
        lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
        lambda x: F.pixel_unshuffle(x, 2),
    ),
    "reshape": (
        lambda x: mb.reshape(x=x, shape=[0, 0, -1, 4]),
        lambda x: x.reshape(2, 4, 9, 4),
    ),
    "reshape_like": (
        lambda x: mb.reshape_like(
            x=x,
            ref_tensors=(mb.flatten2d(x=x, axis=1),),
            begins=(0,),
            ends=(0,),
            end_masks=(True,),
        ),
        lambda x: x.reshape(2, 144),
    ),
    "reverse": (lambda x: mb.reverse(x=x, axes=[1, 3]), lambda x: x.flip([1, 3])),
    "reverse_sequence": (
        lambda x: mb.reverse_sequence(x=x, lengths=_LENGTHS, seq_axis=2, batch_axis=0),
        _reverse_lengths,
    ),
    **{
        f"scatter_{mode}": (
            lambda x, mode=mode: mb.scatter(
                data=x, indices=np.array([2, 0, 3], np.int32), updates=_UPDATES, axis=1, mode=mode
            ),
            lambda x, mode=mode: _put(x, [2, 0, 3], torch.from_numpy(_UPDATES), mode),
        )
        for mode in ("update", "add", "max")
    },
    "scatter_along_axis": (
        lambda x: mb.scatter_along_axis(
            data=x,
            indices=np.zeros((2, 4, 1, 6), np.int32),
            updates=_UPDATES[:1, :1, :1, :] + np.zeros((2, 4, 1, 6), np.float32),
            axis=2,
            mode="add",
        ),
        lambda x: torch.cat([x[:, :, :1] + torch.from_numpy(_UPDATES[0, 0, 0]), x[:, :, 1:]], 2),
    ),
    "scatter_nd": (
        lambda x: mb.scatter_nd(
            data=x, indices=np.array([[1, 2]], np.int32), updates=_UPDATES[0, :1], mode="update"
        ),
        lambda x: x.index_put(
            (torch.tensor([1]), torch.tensor([2])), torch.from_numpy(_UPDATES[0, :1])
        ),
    ),
    "shape": (
        lambda x: mb.cast(x=mb.shape(x=mb.flatten2d(x=x)), dtype="fp32"),
        lambda x: torch.tensor([2.0, 144.0]),
    ),
    "slice_by_index": (
        lambda x: mb.slice_by_index(
            x=x,
            begin=[1, -1, 0, 4],
            end=[0, 0, -1, 0],
            stride=[1, -2, 2, -1],
            begin_mask=[False, False, True, False],
            end_mask=[False, True, False, True],
            squeeze_mask=[True, False, False, False],
        ),
        lambda x: torch.from_numpy(x.numpy()[1, -1::-2, :-1:2, 4::-1].copy()),
    ),
    "slice_by_size": (
        lambda x: mb.slice_by_size(x=x, begin=[0, 1, 2, 0], size=[2, 2, -1, 3]),
        lambda x: x[:, 1:3, 2:, :3],
    ),
    "slice_update": (
        lambda x: mb.slice_update(
            x=x,
            update=_UPDATES[:1, :2, :3, :2],
            begin=[1, 0, 0, 1],
            end=[2, 4, 3, 5],
            stride=[1, 2, 1, 2],
        ),
        lambda x: _slice_updated(x),
    ),
    "sliding_windows": (
        lambda x: mb.sliding_windows(x=x, axis=2, size=3, stride=2),
        lambda x: x.unfold(2, 3, 2).movedim(-1, 3),
    ),
    "split": (
        lambda x: mb.concat(values=mb.split(x=x, split_sizes=[1, 3], axis=1)[::-1], axis=1),
        lambda x: x[:, [1, 2, 3, 0]],
    ),
    "stack": (lambda x: mb.stack(values=[x, x], axis=1), lambda x: torch.stack([x, x], 1)),
    "tile": (lambda x: mb.tile(x=x, reps=[1, 2, 1, 3]), lambda x: x.repeat(1, 2, 1, 3)),
    "topk": (
        lambda x: mb.topk(x=x, k=3, axis=2, ascending=True)[0],
        lambda x: x.sort(2)[0][:, :, :3],
    ),
    "topk_indices": (lambda x: mb.topk(x=x, k=2, axis=1)[1], lambda x: x.topk(2, 1)[1].int()),
    "argsort": (lambda x: mb.argsort(x=x, axis=1, ascending=True), lambda x: x.argsort(1).int()),
    "transpose": (lambda x: mb.transpose(x=x, perm=[3, 0, -2, 1]), lambda x: x.permute(3, 0, 2, 1)),
}
_GRID = _RNG.uniform(-1.2, 1.2, (2, 5, 4, 2)).astype(np.float32)
_THETA = np.array([[0.8, 0.1, 0.2, -0.3, 0.9, 0.0]], np.float32)
_RESIZES: dict[str, Case] = {
    "affine": (
        lambda x: mb.affine(
            x=x,
            transform_matrix=_THETA,
            output_height=5,
            output_width=7,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        ),
        lambda x: F.grid_sample(
            x,
            F.affine_grid(
                torch.from_numpy(_THETA).reshape(1, 2, 3).expand(2, 2, 3), [2, 4, 5, 7], True
            ),
            align_corners=True,
        ),
    ),
    **{
        f"resample_{mode}_{padding}": (
            lambda x, mode=mode, padding=padding: mb.resample(
                x=x,
                coordinates=_GRID,
                sampling_mode=mode,
                padding_mode=padding,
                padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one",
                align_corners=padding == "reflection",
            ),
            lambda x, mode=mode, padding=padding: F.grid_sample(
                x,
                torch.from_numpy(_GRID),
                mode,
                {"constant": "zeros"}.get(padding, padding),
                padding == "reflection",
            ),
        )
        for mode in ("bilinear", "nearest")
        for padding in ("constant", "border", "reflection")
    },
    "upsample_nearest": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: F.interpolate(x, scale_factor=(2, 3)),
    ),
    "resize_nearest": (
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=9, target_size_width=4),
        lambda x: F.interpolate(x, size=(9, 4)),
    ),
    "upsample_bilinear": (
        lambda x: mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=2, align_corners=False
        ),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    ),
    "resize_aligned": (
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=9, target_size_width=4, sampling_mode="STRICT_ALIGN_CORNERS"
        ),
        lambda x: F.interpolate(x, size=(9, 4), mode="bilinear", align_corners=True),
    ),
    "resize": (
        lambda x: mb.resize(
            x=x, shape=[0, 11], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"
        ),
        lambda x: F.interpolate(x, size=(6, 11), mode="bilinear", align_corners=False),
    ),
    "resize_default": (
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=12, target_size_width=6, sampling_mode="DEFAULT"
        ),
        lambda x: _asymmetric(x),
    ),
}


def _slice_updated(x: Tensor) -> Tensor:
    y = x.clone()
    y[1:2, 0:4:2, 0:3, 1:5:2] = torch.from_numpy(_UPDATES[:1, :2, :3, :2])
    return y


def _asymmetric(x: Tensor) -> Tensor:
    high = torch.cat([x[:, :, 1:], x[:, :, -1:]], 2)
    return torch.stack([x, (x + high) / 2], 3).flatten(2, 3)


_FAMILIES = {
    "activations": _ACTIVATIONS,
    "elementwise": _ELEMENTWISE,
    "layers": _LAYERS,
    "reductions": _REDUCTIONS,
    "resizes": _RESIZES,
    "shapes": _SHAPES,
}


@pytest.mark.parametrize("family", sorted(_FAMILIES))
def test_operators(family: str, tmp_path: Path) -> None:
    cases = _FAMILIES[family]

    def write(x: Any) -> Any:
        return tuple(
            mb.identity(x=build(x), name=f"o_{name}") for name, (build, _) in cases.items()
        )

    program = from_mil(write, [_X], tmp_path, ct.target.iOS18)
    x = np.random.default_rng(1).standard_normal(_X).astype(np.float32)
    found = program.run({"x": x})
    for name, (_, reference) in cases.items():
        wanted = np.asarray(reference(torch.from_numpy(x)))
        assert found[f"o_{name}"].dtype == wanted.dtype, name
        np.testing.assert_allclose(
            found[f"o_{name}"], wanted, rtol=1e-4, atol=1e-5, err_msg=name, strict=True
        )
