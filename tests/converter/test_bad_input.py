"""What cannot be used is refused with a remedy and the right exit code, and leaves no bundle."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skerry.cli.main import main
from skerry.devices.errors import ExitCode

_X = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])
_Y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])


def _save(path: Path, nodes: list[onnx.NodeProto], weights: list[TensorProto]) -> None:
    graph = helper.make_graph(nodes, "net", [_X], [_Y], weights)
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("nowhere", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opset).SerializeToString())


def _dense(weight: TensorProto) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    flat = helper.make_node("Flatten", ["image"], ["flat"])
    return [flat, helper.make_node("MatMul", ["flat", weight.name], ["scores"])], [weight]


def corrupt(path: Path) -> None:
    path.write_bytes(b"\x08\x09 corrupt" * 20)


def unknown_operator(path: Path) -> None:
    _save(path, [helper.make_node("Frobnicate", ["image"], ["scores"], domain="nowhere")], [])


def not_finite(path: Path) -> None:
    values = np.full((64, 4), np.nan, np.float32)
    _save(path, *_dense(helper.make_tensor("w", TensorProto.FLOAT, (64, 4), values.ravel())))


def outside_data(path: Path) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 4])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../../../etc/passwd"), ("length", "1024")):
        weight.external_data.add(key=key, value=value)
    _save(path, *_dense(weight))


def absurd_shape(path: Path) -> None:
    shape = helper.make_tensor("w", TensorProto.INT64, [4], [1 << 30, 1 << 30, 1 << 30, 8])
    node = helper.make_node("ConstantOfShape", ["w"], ["huge"])
    total = helper.make_node("Add", ["image", "huge"], ["scores"])
    _save(path, [node, total], [shape])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (corrupt, "net.onnx"),
        (unknown_operator, "Frobnicate"),
        (not_finite, "not finite"),
        (outside_data, "would leave its folder"),
        (absurd_shape, "net.onnx"),
    ],
)
def test_a_model_that_cannot_be_used(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
    words: str,
) -> None:
    make(project / "net.onnx")
    recipe = project / "recipe.toml"
    text = recipe.read_text().replace('"model.py:net"', '"net.onnx"')
    recipe.write_text(text.replace('weights = "net.safetensors"', ""))
    out = project / "out"
    assert main(["convert", str(recipe), "--out", str(out)]) == ExitCode.BAD_INPUT
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_full_disk_leaves_the_earlier_bundle(
    project: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit on the size of files stands in for the disk: the system refuses the write."""
    import resource
    import signal

    out = project / "out"
    words = ["convert", str(project / "recipe.toml"), "--out", str(out)]
    assert main(words) == ExitCode.OK
    before = (out / "result.json").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        code = main([*words, "--set", "quantize.calibrator=minmax"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert code == ExitCode.UNAVAILABLE
    assert "cannot write" in capsys.readouterr().err
    assert (out / "result.json").read_bytes() == before
    assert main(["verify", str(out / "bundle")]) == ExitCode.OK
