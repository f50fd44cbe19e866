"""The MIL executor against PyTorch, on networks that coremltools converted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fakes.mlpackage import from_export, from_mil, from_trace, save
from skerry.converter.coreml_exec import MilLimits, MilProgram
from skerry.converter.coreml_exec.package import PackageLimits
from skerry.devices.errors import (
    BundleError,
    InputError,
    SignatureMismatch,
    SkerryError,
    UnsupportedError,
)

_TOLERANCE = {False: 1e-4, True: 1e-2}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8 * 16, 10)
        self.last = nn.LayerNorm(10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.stem(x)))
        y = F.max_pool2d(y + F.relu6(self.depthwise(y)), 3, 2, 1)
        y = F.avg_pool2d(y, 3, 2, 1)
        return F.softmax(self.last(self.head(y.flatten(1))), -1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.project = nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        qkv = self.qkv(self.norm(x)).reshape(*x.shape[:2], 3, 4, 8)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return self.head(F.gelu(self.project(y)) + x).mean(1)


class Recurrent(nn.Module):
    def __init__(self, kind: str, both: bool) -> None:
        super().__init__()
        make = getattr(nn, kind)
        self.layers = make(6, 12, num_layers=2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(24 if both else 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0].mean(1))


def _error(program: MilProgram, module: nn.Module, x: Tensor) -> float:
    (found,) = program.run({program.inputs[0].name: x.numpy()}).values()
    with torch.no_grad():
        wanted = module.eval()(x).numpy()
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("half", [False, True])
def test_a_convolutional_network(tmp_path: Path, half: bool) -> None:
    module = Residual()
    program = from_export(module, (torch.randn(1, 3, 16, 16),), tmp_path, half=half)
    assert program.inputs[0].shape == (1, 3, 16, 16)
    assert _error(program, module, torch.randn(5, 3, 16, 16)) < _TOLERANCE[half]


@pytest.mark.parametrize(
    ("half", "target"),
    [(False, ct.target.iOS16), (True, ct.target.iOS16), (False, ct.target.iOS18)],
)
def test_a_transformer(tmp_path: Path, half: bool, target: Any) -> None:
    module = Attention()
    tokens = torch.randint(0, 50, (3, 7), dtype=torch.int32)
    program = from_export(module, (tokens[:1],), tmp_path, half=half, target=target)
    assert _error(program, module, tokens) < _TOLERANCE[half]


@pytest.mark.parametrize(
    ("kind", "both", "half"),
    [("LSTM", False, True), ("LSTM", True, False), ("GRU", False, False), ("RNN", False, False)],
)
def test_recurrent_layers(tmp_path: Path, kind: str, both: bool, half: bool) -> None:
    module = Recurrent(kind, both)
    program = from_trace(module, (torch.randn(1, 5, 6),), tmp_path, half=half)
    assert _error(program, module, torch.randn(3, 5, 6)) < _TOLERANCE[half]


def test_static_int8_from_pt2e(tmp_path: Path) -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    module, x = Residual().eval(), torch.randn(1, 3, 16, 16)
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(module, (x,)).module(), quantizer)
    for _ in range(8):
        prepared(torch.randn(1, 3, 16, 16))
    converted = convert_pt2e(prepared, fold_quantize=True)
    program = torch.export.export(converted, (x,)).run_decompositions({})
    model = ct.convert(
        program,
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    executed = save(model, tmp_path)
    found = executed.run({executed.inputs[0].name: x.numpy()})[executed.outputs[0].name]
    np.testing.assert_allclose(found, converted(x).detach().numpy(), atol=1e-5)


def test_rows_are_independent_of_their_batch(tmp_path: Path) -> None:
    program = from_export(Residual(), (torch.randn(1, 3, 16, 16),), tmp_path)
    name = program.inputs[0].name
    rows = torch.randn(70, 3, 16, 16).numpy()
    (together,) = program.run({name: rows}).values()
    alone = [next(iter(program.run({name: rows[i : i + 1]}).values())) for i in (0, 63, 69)]
    np.testing.assert_allclose(together[[0, 63, 69]], np.concatenate(alone), atol=1e-6)


def test_a_program_that_cannot_be_mapped_is_looped(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def keep_positive(x: Any) -> Any:
        return mb.reduce_sum(x=mb.non_zero(x=mb.relu(x=x)), axes=[0], keep_dims=True)

    program = from_mil(keep_positive, [(1, 4)], tmp_path)
    rows = np.array([[1, -1, 2, 3], [-1, -1, -1, 5]], np.float32)
    (found,) = program.run({"x": rows}).values()
    np.testing.assert_array_equal(found, [[0, 5], [0, 3]])


def test_branches_loops_and_lists(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def collatz(x: Any) -> Any:
        """Halve or treble each turn while above one; keep the first three steps."""

        def turn(step: Any, value: Any, steps: Any) -> tuple[Any, ...]:
            half = mb.mul(x=value, y=np.float32(0.5))
            even = mb.squeeze(x=mb.equal(x=mb.floor(x=half), y=half))
            chosen = mb.cond(
                pred=even,
                _true_fn=lambda: half,
                _false_fn=lambda: mb.add(x=mb.mul(x=value, y=np.float32(3)), y=np.float32(1)),
            )
            return mb.add(x=step, y=1), chosen, mb.list_write(ls=steps, index=step, value=chosen)

        steps = mb.make_list(init_length=16, elem_shape=(1,), dtype="fp32", dynamic_length=False)
        count, _, steps = mb.while_loop(
            _cond=lambda step, value, steps: mb.squeeze(x=mb.greater(x=value, y=np.float32(1))),
            _body=turn,
            loop_vars=(0, x, steps),
        )
        return mb.identity(x=count), mb.list_gather(ls=steps, indices=[0, 1, 2])

    program = from_mil(collatz, [(1,)], tmp_path)
    count, first = program.run({"x": np.array([6], np.float32)}).values()
    assert count == 8
    np.testing.assert_array_equal(first, [[3], [10], [5]])


def test_a_loop_without_end_is_stopped(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def forever(x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda value: mb.less(x=mb.reduce_sum(x=value, axes=[0]), y=np.float32(1)),
            _body=lambda value: mb.mul(x=value, y=np.float32(1)),
            loop_vars=(x,),
        )

    from_mil(forever, [(1,)], tmp_path)
    program = MilProgram.load(tmp_path / "model.mlpackage", MilLimits(loop_steps=50))
    with pytest.raises(BundleError, match="more than 50 turns"):
        program.run({"x": np.zeros(1, np.float32)})


def test_state_begins_at_zero_and_is_kept_within_a_run(tmp_path: Path) -> None:
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(1, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.total.add_(x)
            return self.total * 2

    traced = torch.jit.trace(Running(), (torch.zeros(1, 4),))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType(shape=(1, 4), dtype=np.float16)],
        outputs=[ct.TensorType(dtype=np.float16)],
        states=[ct.StateType(ct.TensorType(shape=(1, 4), dtype=np.float16), name="total")],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    program = save(model, tmp_path)
    assert len(program.inputs) == 1
    for _ in range(2):
        (found,) = program.run({program.inputs[0].name: np.ones((3, 4), np.float16)}).values()
        np.testing.assert_array_equal(found, np.full((3, 4), 2, np.float16))


def test_a_missing_operator_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skerry.converter.coreml_exec import evaluate

    fewer = {k: v for k, v in evaluate.OPERATORS.items() if k not in ("conv", "softmax")}
    monkeypatch.setattr(evaluate, "OPERATORS", fewer)
    with pytest.raises(UnsupportedError, match=r"conv, softmax"):
        from_export(Residual(), (torch.randn(1, 3, 16, 16),), tmp_path)


def test_every_value_can_be_inspected(tmp_path: Path) -> None:
    module = Residual().eval()
    program = from_export(module, (torch.randn(1, 3, 16, 16),), tmp_path)
    row = torch.randn(1, 3, 16, 16)
    name = program.inputs[0].name
    values = program.inspect({name: row.numpy()})
    (last,) = program.run({name: row.numpy()}).values()
    np.testing.assert_array_equal(values[program.outputs[0].name], last)
    with torch.no_grad():
        stem = F.relu(module.norm(module.stem(row))).numpy()
    assert any(
        value.shape == stem.shape and np.allclose(value, stem, atol=1e-5)
        for value in values.values()
    )
    with pytest.raises(SignatureMismatch, match="inspected"):
        program.inspect({name: row.repeat(2, 1, 1, 1).numpy()})


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    program = from_export(Residual(), (torch.randn(1, 3, 16, 16),), tmp_path)
    with pytest.raises(SignatureMismatch, match="give"):
        program.run({"nothing": np.zeros((1, 3, 16, 16), np.float32)})
    with pytest.raises(SignatureMismatch, match="does not fit"):
        program.run({program.inputs[0].name: np.zeros((1, 3, 8, 16), np.float32)})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    from_export(Residual(), (torch.randn(1, 3, 16, 16),), folder)
    return folder / "model.mlpackage"


@pytest.fixture
def broken(package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package, tmp_path / "broken.mlpackage"))


def _weights(path: Path) -> Path:
    (found,) = path.rglob("weight.bin")
    return found


def test_a_truncated_weight_file(broken: Path) -> None:
    weights = _weights(broken)
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(BundleError, match="weight"):
        MilProgram.load(broken)


def test_a_weight_file_with_a_lying_header(broken: Path) -> None:
    weights = _weights(broken)
    data = bytearray(weights.read_bytes())
    data[64 + 16 : 64 + 24] = (2**62).to_bytes(8, "little")  # where the first blob's data begins
    weights.write_bytes(data)
    with pytest.raises(BundleError, match="fit its file"):
        MilProgram.load(broken)


def test_a_manifest_that_leaves_its_folder(broken: Path) -> None:
    manifest = broken / "Manifest.json"
    manifest.write_text(manifest.read_text().replace("com.apple.CoreML/model", "../../model"))
    with pytest.raises(InputError, match="leave its folder"):
        MilProgram.load(broken)


def test_weights_behind_a_link(broken: Path, tmp_path: Path) -> None:
    weights = _weights(broken)
    outside = tmp_path / "secret.bin"
    weights.rename(outside)
    weights.symlink_to(outside)
    with pytest.raises(InputError, match="by a link"):
        MilProgram.load(broken)


def test_a_specification_that_is_no_model(broken: Path) -> None:
    (found,) = broken.rglob("*.mlmodel")
    found.write_bytes(b"\xff" * 100)
    with pytest.raises(BundleError, match="not a Core ML model"):
        MilProgram.load(broken)


def test_damaged_packages_give_clear_errors(package: Path, broken: Path) -> None:
    (found,) = package.rglob("*.mlmodel")
    (target,) = broken.rglob("*.mlmodel")
    whole = found.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(damaged), rng.integers(1, 5)):
            damaged[position] = rng.integers(0, 256)
        target.write_bytes(damaged)
        try:
            program = MilProgram.load(broken)
            program.run({spec.name: np.zeros(spec.shape, spec.dtype) for spec in program.inputs})
        except SkerryError:
            refused += 1
    assert refused > 50


def test_limits_hold(package: Path) -> None:
    with pytest.raises(BundleError, match="are accepted"):
        MilProgram.load(package, MilLimits(package=PackageLimits(specification_bytes=100)))
    with pytest.raises(BundleError, match="elements"):
        MilProgram.load(package, MilLimits(max_elements=100))
