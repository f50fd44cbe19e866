"""What every model source must do, the fake as well as the real ones."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fakes.source import FakeSource
from skerry.converter.source.base import ModelSource
from skerry.converter.source.pytorch import PyTorchSource
from skerry.converter.source.select import open_path
from skerry.converter.userfile import UserFunction
from skerry.devices.errors import InputError

_SHAPES = ((1, 8, 8),)


def pytorch(project: Path, weights: str = "net.safetensors", factory: str = "net") -> PyTorchSource:
    path = project / weights if weights else None
    return PyTorchSource(UserFunction(project / "model.py", factory), path, _SHAPES)


def state_dict(project: Path) -> PyTorchSource:
    torch.save(
        {
            "state_dict": {
                f"module.{k}": v for k, v in load_file(project / "net.safetensors").items()
            }
        },
        project / "net.th",
    )
    return pytorch(project, "net.th")


def fake(project: Path) -> FakeSource:
    return FakeSource(pytorch(project).module())


def program(project: Path) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch")}
    rows = torch.zeros(2, 1, 8, 8)
    return torch.export.export(pytorch(project).module(), (rows,), dynamic_shapes=(batch,))


def exported(project: Path) -> ModelSource:
    torch.export.save(program(project), project / "net.pt2")
    return open_path(project / "net.pt2")


def onnx_file(project: Path) -> ModelSource:
    module, rows = pytorch(project).module(), torch.zeros(2, 1, 8, 8)
    batch = ({0: torch.export.Dim("batch")},)
    made = torch.onnx.export(module, (rows,), dynamo=True, dynamic_shapes=batch, verbose=False)
    made.save(project / "net.onnx")
    return open_path(project / "net.onnx")


@pytest.fixture(params=[fake, pytorch, state_dict, exported, onnx_file])
def source(request: pytest.FixtureRequest, project: Path) -> ModelSource:
    return request.param(project)


def test_the_module_is_ready_to_run_and_to_train(source: ModelSource, project: Path) -> None:
    module = source.module()
    assert not module.training
    rows = torch.linspace(-1, 1, 3 * 64).reshape(3, 1, 8, 8)
    assert module(rows).shape == (3, 4)
    expected = pytorch(project).module()(rows)
    torch.testing.assert_close(module(rows), expected, rtol=1e-4, atol=1e-5)
    module.train()
    module.eval()
    module(rows).sum().backward()
    assert sum(parameter.grad is not None for parameter in module.parameters()) >= 6


def test_each_module_is_new(source: ModelSource) -> None:
    one, other = source.module(), source.module()
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(other.parameters()).abs().sum() > 0


def test_it_says_what_it_is(source: ModelSource) -> None:
    assert source.name and source.kind
    assert all(path.is_file() for path in source.materials().values())


@pytest.mark.parametrize(
    ("weights", "factory", "words"),
    [
        ("torn.safetensors", "net", "cannot be read as safetensors"),
        ("torn.pt", "net", "cannot be read as a state dict"),
        ("pickled.pt", "net", "cannot be read as a state dict"),
        ("nan.safetensors", "net", "not finite"),
        ("net.safetensors", "wide", "has the shape"),
        ("net.safetensors", "other", "not the weights of this model"),
        ("", "fails", "out of luck"),
        ("", "text", "gave str"),
    ],
)
def test_what_cannot_be_used_is_named(
    project: Path, weights: str, factory: str, words: str
) -> None:
    good = (project / "net.safetensors").read_bytes()
    (project / "torn.safetensors").write_bytes(good[:-40])
    (project / "torn.pt").write_bytes(b"not a checkpoint")
    torch.save({"weights": nn.Linear(2, 2)}, project / "pickled.pt")
    state = load_file(project / "net.safetensors")
    save_file({**state, "0.weight": state["0.weight"] * float("nan")}, project / "nan.safetensors")
    with pytest.raises(InputError) as caught:
        pytorch(project, weights, factory).module()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class Touch:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Change the parts of an archive; `None` leaves one out."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            if (kept := change(name, data)) is not None:
                archive.writestr(name, kept)


def test_an_archive_that_would_run_code_is_refused(project: Path) -> None:
    path, trace = project / "net.pt2", project / "trace"

    def hostile(name: str, data: bytes) -> bytes:
        if "sample_inputs" in name:
            buffer = io.BytesIO()
            torch.save(((Touch(trace),), {}), buffer)
            return buffer.getvalue()
        return data

    def pickled(name: str, data: bytes) -> bytes:
        return data.replace(b'"use_pickle": false', b'"use_pickle": true', 1)

    def evaluated(name: str, data: bytes) -> bytes:
        if not name.endswith("model.json"):
            return data
        document = json.loads(data)
        document["odd"] = {"expr_str": "__import__('os').system('true')"}
        return json.dumps(document).encode()

    for change, words in (
        (hostile, "cannot be read"),
        (pickled, "pickled"),
        (evaluated, "no arith"),
    ):
        exported(project)
        rewritten(path, change)
        with pytest.raises(InputError, match=words):
            open_path(path).module()
    exported(project)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/aotinductor/model/model.so", b"code")
    with pytest.raises(InputError, match="is no tensor"):
        open_path(path).module()
    assert not trace.exists()


@pytest.mark.parametrize("name", ["torn.onnx", "torn.pt2", "torn.h5"])
def test_a_torn_file_is_named(project: Path, name: str) -> None:
    if name == "torn.h5":
        pytest.importorskip("tensorflow")
    (project / name).write_bytes(b"\x08\x01 and nothing that belongs here")
    with pytest.raises(InputError, match=name):
        open_path(project / name).module()
    with pytest.raises(InputError, match="no model that can be read"):
        open_path(project / "model.bin")


@pytest.mark.slow
def test_keras_and_savedmodel_answer_as_tensorflow_does(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(3)
    image, extra = keras.Input((8, 8, 2), name="image"), keras.Input((3,), name="extra")
    x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(image)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(5, 3, strides=2)(x))
    x = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(x), extra])
    model = keras.Model([image, extra], keras.layers.Dense(4, activation="softmax")(x))
    model.save(tmp_path / "net.keras")
    model.save(tmp_path / "net.h5")
    model.export(tmp_path / "saved", verbose=False)
    generator = np.random.default_rng(5)
    rows = [
        generator.normal(size=(3, 8, 8, 2)).astype(np.float32),
        generator.normal(size=(3, 3)).astype(np.float32),
    ]
    expected = model(rows, training=False).numpy()
    for name in ("net.keras", "net.h5", "saved"):
        source = open_path(tmp_path / name)
        given = rows[::-1] if name == "saved" else rows  # a signature's inputs come by name
        found = source.module()(*[torch.from_numpy(one) for one in given])
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)
        assert source.materials()
    assert tensorflow.__version__
