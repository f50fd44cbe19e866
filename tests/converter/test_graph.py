"""What a recipe says of inputs and outputs is in the graph."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from skerry.converter.graph import Deployable, as_tensors, as_tuple
from skerry.converter.recipe import Input, OutputTensor

_RNG = np.random.default_rng(11)


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "same"])
@pytest.mark.parametrize("channels", ["first", "last"])
def test_images_are_prepared_as_said(layout: Any, channels: Any) -> None:
    spec = Input(
        (3, 4, 5) if channels == "first" else (4, 5, 3),
        channels,
        layout,
        "uint8",
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
    )
    assert spec.picture == (3, 4, 5)
    rows = _RNG.integers(0, 256, (2, *spec.caller_shape), dtype=np.uint8)
    found = Deployable(nn.Identity(), {"image": spec}, {})(*as_tensors({"image": rows}))
    channels_first = rows.transpose(0, 3, 1, 2) if spec.channels_last else rows
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (spec.mean, spec.std))
    if channels == "last":
        found = found.movedim(-1, 1)
    np.testing.assert_allclose(
        found.numpy(), (channels_first / 255 - mean) / std, rtol=1e-5, atol=1e-6
    )
    assert found.dtype == torch.float32


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_pictures_are_scaled_in_the_graph(layout: Any, channels: Any) -> None:
    shape = (1, 4, 6) if channels == "first" else (4, 6, 1)
    spec = Input(shape, channels, layout, "uint8", resize_from=(8, 12), scale=1.0)
    assert spec.picture == (1, 8, 12)
    steps = np.arange(6, dtype=np.uint8).repeat(2)[None].repeat(8, 0)
    rows = steps.reshape(1, *spec.caller_shape)
    found = Deployable(nn.Identity(), {"image": spec}, {})(torch.from_numpy(rows))
    assert found.shape == (1, *shape)
    np.testing.assert_allclose(found.numpy().reshape(4, 6), np.arange(6)[None].repeat(4, 0))


def test_an_input_of_which_nothing_is_said_passes_through() -> None:
    rows = _RNG.normal(size=(2, 7)).astype(np.float32)
    found = Deployable(nn.Identity(), {"x": Input((7,))}, {})(torch.from_numpy(rows))
    np.testing.assert_array_equal(found.numpy(), rows)


def test_indices_stay_integers() -> None:
    spec = Input((5,), dtype="int64")
    model = Deployable(nn.Embedding(9, 3), {"tokens": spec}, {})
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 3)


def test_the_largest_are_given_besides() -> None:
    outputs = {"scores": OutputTensor(softmax=True, top=2)}
    model = Deployable(nn.Identity(), {"x": Input((4,))}, outputs)
    scores, best, labels = as_tuple(model(torch.tensor([[1.0, 4.0, 0.0, 3.0]])))
    assert labels.dtype == torch.int32
    assert labels.tolist() == [[1, 3]]
    torch.testing.assert_close(best, scores[:, [1, 3]])


class Two(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, a - b


def test_several_inputs_and_outputs_keep_their_order() -> None:
    inputs = {"a": Input((3,), scale=2.0), "b": Input((3,))}
    model = Deployable(Two(), inputs, {"sum": OutputTensor(), "soft": OutputTensor(softmax=True)})
    a, b = torch.ones(2, 3), torch.tensor([[0.0, 1.0, 2.0]] * 2)
    total, soft = as_tuple(model(a, b))
    torch.testing.assert_close(total, 2 * a + b)
    torch.testing.assert_close(soft, torch.softmax(2 * a - b, -1))
