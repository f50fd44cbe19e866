"""The ONNX importer: real exports come back as trainable modules; hostile files do not come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from skerry.converter.onnx_import import ImportLimits, OnnxModule, import_onnx
from skerry.devices.errors import InputError, UnsupportedError


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.slope = nn.PReLU(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        y = F.hardswish(self.norm(self.body(y)) + y)
        y = self.slope(self.up(F.max_pool2d(y, 2)))
        y = F.pad(F.interpolate(y, scale_factor=2, mode="bilinear"), (1, 1, 1, 1), mode="reflect")
        return self.head(F.avg_pool2d(y, 3, 2, 1).mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.head = nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: str, both: bool) -> None:
        super().__init__()
        make = getattr(nn, kind)
        self.layers = make(6, 12, batch_first=True, bidirectional=both)
        self.head = nn.Linear(24 if both else 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


_ROWS = {
    "residual": (Residual, lambda n: torch.randn(n, 3, 16, 16), True),
    "transformer": (Transformer, lambda n: torch.randint(0, 50, (n, 7)), True),
    "lstm": (lambda: Recurrent("LSTM", True), lambda n: torch.randn(n, 5, 6), True),
    "gru": (lambda: Recurrent("GRU", False), lambda n: torch.randn(n, 5, 6), False),
}


def _export(module: Any, rows: Tensor, path: Path, free: bool) -> Path:
    axes = ({0: torch.export.Dim.DYNAMIC},) if free else None
    if isinstance(module, OnnxModule) and axes is not None:
        axes = (axes,)  # type: ignore[assignment]  # one entry for *inputs
    program = torch.export.export(module, (rows,), dynamic_shapes=axes)
    torch.onnx.export(program, (), str(path), dynamo=True, verbose=False)
    return path


@pytest.fixture(scope="module", params=sorted(_ROWS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A module, how to draw rows for it, whether their number is free, and its ONNX file."""
    make, draw, free = _ROWS[request.param]
    torch.manual_seed(0)
    module = make().eval()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return module, draw, free, _export(module, draw(2), path, free)


def test_round_trip(exported: Any, tmp_path: Path) -> None:
    import onnxruntime

    module, draw, free, path = exported
    imported = import_onnx(path)
    rows = draw(5 if free else 2)
    with torch.no_grad():
        wanted = module(rows)
        torch.testing.assert_close(imported(rows), wanted, atol=1e-5, rtol=1e-4)
    again = _export(imported, draw(2), tmp_path / "again.onnx", free)
    session = onnxruntime.InferenceSession(str(again))
    (found,) = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def test_what_comes_in_can_be_trained(exported: Any) -> None:
    _, draw, _, path = exported
    imported = import_onnx(path).train()
    rows = draw(2)
    optimizer = torch.optim.SGD(imported.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(imported(rows), torch.tensor([0, 1]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in imported.parameters())
    assert losses[-1] < losses[0]


def test_layers_are_pytorchs_own(tmp_path: Path) -> None:
    make, draw, free = _ROWS["residual"]
    imported = import_onnx(_export(make().eval(), draw(2), tmp_path / "m.onnx", free))
    kinds = [type(layer) for layer in imported.modules()]
    assert kinds.count(nn.Conv2d) == 2
    assert kinds.count(nn.Linear) == 1
    assert isinstance(imported.stem, nn.Conv2d)
    assert imported.inputs[0].shape == (-1, 3, 16, 16)


def _model(nodes: list[Any], initializers: list[Any] = (), **more: Any) -> onnx.ModelProto:  # type: ignore[assignment]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, more.get("shape", ["n", 4]))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", more.get("opset", 20))])


def _weights(name: str, *shape: int) -> TensorProto:
    rng = np.random.default_rng(0)
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)


def test_batch_norm_trains_its_statistics() -> None:
    parts = [_weights(name, 4) for name in ("gamma", "beta", "mean")]
    parts.append(numpy_helper.from_array(np.ones(4, np.float32), "variance"))
    names = ["x", "gamma", "beta", "mean", "variance"]
    module = import_onnx(_model([helper.make_node("BatchNormalization", names, ["y"])], parts))
    before = {name: tensor.clone() for name, tensor in module.named_buffers()}
    module.train()(torch.randn(16, 4) + 3)
    changed = [name for name, tensor in module.named_buffers() if not before[name].equal(tensor)]
    assert {name.rsplit(".", 1)[-1] for name in changed} >= {"running_mean", "running_var"}


def test_a_bias_that_is_added_joins_its_product() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["b", "xw"], ["y"]),
    ]
    module = import_onnx(_model(nodes, [_weights("w", 4, 3), _weights("b", 3)]))
    (layer,) = (item for item in module.modules() if isinstance(item, nn.Linear))
    assert layer.bias is not None
    x = torch.randn(2, 4)
    torch.testing.assert_close(module(x), x @ layer.weight.T + layer.bias)


def test_shared_weights_stay_shared() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    module = import_onnx(_model(nodes, [_weights("w", 4, 4)]))
    assert len(list(module.parameters())) == 1


def test_qdq_is_computed(tmp_path: Path) -> None:
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    zero = numpy_helper.from_array(np.array(3, np.int8), "z")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    module = import_onnx(_model(nodes, [scale, zero]))
    x = torch.randn(3, 4) * 10
    wanted = torch.fake_quantize_per_tensor_affine(x, 0.1, 3, -128, 127)
    torch.testing.assert_close(module(x), wanted)
    assert not list(module.parameters())


def test_pruned_layers_still_fit(tmp_path: Path) -> None:
    import torch_pruning

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 16, 3, padding=1)
            self.two = nn.Conv2d(16, 16, 3, padding=1)
            self.head = nn.Linear(16 * 4, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.one(x))
            y = F.max_pool2d(y + F.relu(self.two(y)), 4)
            return self.head(y.flatten(1))

    path = _export(Net().eval(), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx", True)
    module, rows = import_onnx(path), torch.randn(2, 3, 8, 8)
    before = sum(p.numel() for p in module.parameters())
    torch_pruning.pruner.MagnitudePruner(
        module,
        rows,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[layer for layer in module.modules() if isinstance(layer, nn.Linear)],
    ).step()
    assert sum(p.numel() for p in module.parameters()) < 0.6 * before
    assert module(rows).shape == (2, 5)


def test_every_missing_operator_is_named() -> None:
    nodes = [
        helper.make_node("TfIdfVectorizer", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Magic", ["b"], ["y"], domain="com.example"),
    ]
    with pytest.raises(UnsupportedError, match=r"TfIdfVectorizer, com.example::Magic"):
        import_onnx(_model(nodes))


def test_an_older_meaning_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="means something else by Softmax"):
        import_onnx(_model([helper.make_node("Softmax", ["x"], ["y"])], opset=11))


def _external(location: str, length: int = 64, offset: int = 0) -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor])


def test_external_data_beside_the_file(tmp_path: Path) -> None:
    weights = np.arange(16, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(b"12345678" + weights.tobytes())
    (tmp_path / "m.onnx").write_bytes(_external("w.bin", offset=8).SerializeToString())
    module = import_onnx(tmp_path / "m.onnx")
    torch.testing.assert_close(module(torch.eye(4)), torch.from_numpy(weights.reshape(4, 4)))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin", "", "a\0b"])
def test_external_data_elsewhere_is_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "m.onnx").write_bytes(_external(location).SerializeToString())
    with pytest.raises(InputError, match=r"folder|cannot be read"):
        import_onnx(folder / "m.onnx")


@pytest.mark.parametrize(("length", "offset"), [(64, 8), (60, 0), (1 << 60, 0), (64, -8)])
def test_external_data_out_of_bounds(length: int, offset: int, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    (tmp_path / "m.onnx").write_bytes(_external("w.bin", length, offset).SerializeToString())
    with pytest.raises(InputError, match="external data"):
        import_onnx(tmp_path / "m.onnx")


def test_absurd_shapes_are_refused() -> None:
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 20])
    huge.raw_data = bytes(4)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    with pytest.raises(InputError, match="too large"):
        import_onnx(_model(nodes, [huge]))
    lying = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4])
    lying.raw_data = bytes(4)
    with pytest.raises(InputError, match="4 bytes for 64"):
        import_onnx(_model(nodes, [lying]))
    with pytest.raises(InputError, match="not acceptable"):
        import_onnx(_model([helper.make_node("Relu", ["x"], ["y"])], shape=[1 << 40, 4]))


def test_absurd_results_are_refused() -> None:
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20, 4], np.int64), "shape")
    module = import_onnx(_model([helper.make_node("Expand", ["x", "shape"], ["y"])], [shape]))
    with pytest.raises(InputError, match="would make a tensor"):
        module(torch.zeros(1, 4))


def test_limits_hold(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString())
    with pytest.raises(InputError, match="are accepted"):
        import_onnx(path, ImportLimits(file_bytes=10))
    with pytest.raises(InputError, match="nodes"):
        import_onnx(path, ImportLimits(max_nodes=0))


def _with_functions(depth: int, width: int, *, loop: bool = False) -> onnx.ModelProto:
    """Functions each of which calls the one below `width` times; the lowest calls the highest."""
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("c", 1)]
    functions = []
    for level in range(depth):
        names = ["a", *(f"t{i}" for i in range(1, width)), "b"]
        below = f"F{level - 1}" if level else (f"F{depth - 1}" if loop else "Relu")
        domain = "" if below == "Relu" else "c"
        nodes = [
            helper.make_node(below, [names[i]], [names[i + 1]], domain=domain) for i in range(width)
        ]
        functions.append(helper.make_function("c", f"F{level}", ["a"], ["b"], nodes, sets))
    model = _model([helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="c")])
    model.opset_import.append(sets[1])
    model.functions.extend(functions)
    return model


def test_functions_are_unfolded_within_bounds() -> None:
    x = torch.randn(2, 4)
    torch.testing.assert_close(import_onnx(_with_functions(3, 2))(x), x.relu())
    with pytest.raises(InputError, match="10000000000 nodes"):
        import_onnx(_with_functions(10, 10))
    with pytest.raises(InputError, match="calls itself"):
        import_onnx(_with_functions(2, 1, loop=True))


def test_damaged_files_give_clear_errors(tmp_path: Path) -> None:
    weights = [_weights("w", 4, 4), _weights("b", 4)]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    whole = _model(nodes, weights).SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(damaged), rng.integers(1, 5)):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            import_onnx(path)
        except InputError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"hello"])
def test_what_is_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError):
        import_onnx(path)


def test_a_value_that_nothing_computes() -> None:
    module = import_onnx(_model([helper.make_node("Relu", ["nowhere"], ["y"])]))
    with pytest.raises(InputError, match="nothing computes 'nowhere'"):
        module(torch.zeros(1, 4))
