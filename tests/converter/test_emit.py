import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from coremltools.proto import Model_pb2
from onnx import numpy_helper

from fakes.networks import RESIDUAL_SIGNATURE, pictures, residual
from skerry.converter.coreml_exec import MilProgram
from skerry.converter.coreml_exec.graph import Reference, read_function
from skerry.converter.coreml_exec.package import Package
from skerry.converter.emit import PRECISIONS, SUPPORT, Emitted, Signature, emit, unsupported
from skerry.converter.emit.inputs import float_module
from skerry.converter.proof import open_runner
from skerry.converter.quantize import calibrate
from skerry.devices.errors import InputError, UnsupportedError
from skerry.runtime.bundle.card import TensorSpec

onnxruntime = pytest.importorskip("onnxruntime")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")

_FORMATS = ("onnx", "tflite", "coreml")
_INTEGER = {"QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
_FLOAT = {"Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "NhwcFusedConv"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def example():
    return (pictures(32, seed=0),)


@pytest.fixture(scope="module")
def source():
    return residual()


@pytest.fixture(scope="module")
def quantized(source, example):
    return calibrate(source, example, [(pictures(32, seed),) for seed in range(4)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("emitted")


@pytest.fixture(scope="module")
def emitted(source, quantized, example, folder):
    cache: dict[tuple[str, str], Emitted] = {}

    def one(fmt: str, precision: str) -> Emitted:
        if (fmt, precision) not in cache:
            model = quantized if precision == "int8" else source
            cache[fmt, precision] = emit(fmt, precision, model, example, RESIDUAL_SIGNATURE, folder)
        return cache[fmt, precision]

    return one


class _Branches(torch.nn.Module):
    """A ReLU'd branch joined with one that is not: one scale, zero not at its floor."""

    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Conv2d(1, 4, 1), torch.nn.Conv2d(1, 4, 3, padding=1)
        self.after = torch.nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.after(torch.cat([torch.relu(self.left(x)), self.right(x)], dim=1))


def test_layers_before_a_concatenation_are_integer_kernels_too(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(8, 1, 6, 6)
    signature = Signature(
        (TensorSpec("x", "float32", (-1, 1, 6, 6)),), (TensorSpec("y", "float32", (-1, 2, 6, 6)),)
    )
    quantized = calibrate(_Branches().eval(), (x,), [(x,)])
    artifact = emit("onnx", "int8", quantized, (x,), signature, tmp_path)
    kernels = _kernels(artifact.path, tmp_path)
    assert kernels["QLinearConv"] == 3
    assert not _FLOAT & kernels.keys()
    assert np.allclose(_run(artifact, x.numpy()), quantized(x).numpy(), atol=0.02)


class _Stateful(torch.nn.Module):
    """A state that is zero at first, and a channel whose weights are as good as gone."""

    def __init__(self):
        super().__init__()
        self.x, self.hidden = torch.nn.Linear(8, 16), torch.nn.Linear(16, 16)
        self.after = torch.nn.Linear(16, 3)
        with torch.no_grad():
            self.x.weight[3] = self.x.weight[3] * 1e-12
            self.x.bias[3] = 1.0

    def forward(self, x, hidden):
        return self.after(torch.relu(self.x(x) + self.hidden(hidden)))


@pytest.mark.parametrize("fmt", _FORMATS)
def test_biases_fit_where_calibration_saw_nothing(fmt, tmp_path):
    print("seed", 0)
    torch.manual_seed(0)
    model, x, state = _Stateful().eval(), torch.randn(64, 8), torch.zeros(64, 16)
    signature = Signature(
        (TensorSpec("x", "float32", (-1, 8)), TensorSpec("hidden", "float32", (-1, 16))),
        (TensorSpec("y", "float32", (-1, 3)),),
    )
    quantized = calibrate(model, (x, state), [(x, state)])
    with torch.no_grad():
        exact, rounded = model(x, state).numpy(), quantized(x, state).numpy()
    step = float(np.abs(exact).max()) / 127
    assert np.abs(rounded - exact).max() <= 6 * step
    artifact = emit(fmt, "int8", quantized, (x, state), signature, tmp_path)
    rows = {"x": x.numpy(), "hidden": state.numpy()}
    if fmt == "onnx":
        got = onnxruntime.InferenceSession(str(artifact.path)).run(None, rows)[0]
    elif fmt == "tflite":
        runner = interpreter.Interpreter(str(artifact.path)).get_signature_runner()
        each = [{name: one[i : i + 1] for name, one in rows.items()} for i in range(len(x))]
        got = np.concatenate([runner(**row)["y"].copy() for row in each])
    else:
        got = MilProgram.load(artifact.path).run(rows)["y"]
    assert np.abs(got - rounded).max() <= 2 * step


def _litert(path: Path):
    return interpreter.Interpreter(
        str(path),
        experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )


def _run(artifact: Emitted, rows: np.ndarray) -> np.ndarray:
    name, answer = artifact.inputs[0].name, artifact.outputs[0].name
    if artifact.format == "onnx":
        session = onnxruntime.InferenceSession(str(artifact.path))
        return session.run([answer], {name: rows})[0]
    if artifact.format == "tflite":
        runner = interpreter.Interpreter(str(artifact.path)).get_signature_runner()
        each = [runner(**{name: rows[i : i + 1]})[answer].copy() for i in range(len(rows))]
        return np.concatenate(each)
    program = MilProgram.load(artifact.path)
    return program.run({name: rows.astype(artifact.inputs[0].dtype)})[answer]


_LOSSY = ("palette6-weights", "palette4-weights", *[p for p in PRECISIONS if "sparse" in p])
_PAIRS = [p for p, reason in SUPPORT.items() if reason is None and p[1] not in _LOSSY]


@pytest.mark.parametrize(("fmt", "precision"), _PAIRS)
def test_an_artifact_answers_like_its_source(fmt, precision, emitted, source, quantized, example):
    artifact = emitted(fmt, precision)
    assert artifact.inputs[0].name == "image"
    assert artifact.outputs[0].name == "scores"
    assert artifact.inputs[0].dtype == ("int32" if fmt == "coreml" else "uint8")
    rows = pictures(50, seed=7)
    reference = quantized if precision == "int8" else float_module(source, precision, example)
    with torch.no_grad():
        expected = reference(rows).numpy()
    got = _run(artifact, rows.numpy())
    assert got.dtype == np.float32
    # Integer kernels round once where fake quantization rounds in float: a step apart, rarely two.
    step = float(np.abs(expected).max()) / 127
    limits = {"fp16": 5e-3, "int8": 2 * step, "int8-dynamic": 2 * step}
    limit = limits.get(precision, 1e-4)
    if precision == "int4-weights" and fmt != "coreml":  # 4-bit kernels round activations too
        limit = 2 * step
    assert np.abs(got - expected).max() <= limit
    assert (got.argmax(1) == expected.argmax(1)).mean() >= 0.98


@pytest.mark.parametrize("precision", _LOSSY)
def test_compressed_core_ml_weights_are_smaller_and_near(precision, emitted, source):
    artifact, full = emitted("coreml", precision), emitted("coreml", "fp32")
    assert _bytes(artifact.path) < 0.85 * _bytes(full.path)
    kinds = {operation.kind for operation in _operations(artifact.path)}
    wanted = {
        "palette6-weights": {"constexpr_lut_to_dense"},
        "palette4-weights": {"constexpr_lut_to_dense"},
        "sparse-weights": {"constexpr_sparse_to_dense"},
        "sparse-int8-weights": {"constexpr_sparse_blockwise_shift_scale"},
        "sparse-palette4-weights": {"constexpr_lut_to_sparse"},
    }
    assert wanted[precision] <= kinds
    rows = pictures(50, seed=7)
    with torch.no_grad():
        expected = source(rows).numpy()
    got = _run(artifact, rows.numpy())
    noise = np.square(got - expected).sum() / np.square(expected).sum()
    limits = {"palette6-weights": 0.003, "palette4-weights": 0.05}
    assert noise < limits.get(precision, 0.5)  # half of random weights is not nothing


def _bytes(path: Path) -> int:
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def _kernels(path: Path, work: Path) -> Counter[str]:
    """How often each operator is in the graph that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(work / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options)
    return Counter(node.op_type for node in onnx.load(work / "optimized.onnx").graph.node)


def test_every_layer_is_an_integer_kernel_in_onnx_runtime(emitted, tmp_path):
    kernels = _kernels(emitted("onnx", "int8").path, tmp_path)
    assert sum(kernels[kind] for kind in _INTEGER) == 5
    assert not _FLOAT & kernels.keys()
    assert kernels["QLinearAdd"] == 1
    assert not {"Relu", "Clip"} & kernels.keys()


def test_every_layer_is_an_integer_kernel_in_litert(emitted):
    runtime = _litert(emitted("tflite", "int8").path)
    runtime.allocate_tensors()
    kinds = {d["index"]: d["dtype"] for d in runtime.get_tensor_details() if d["name"]}
    layers = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    seen = 0
    for operator in runtime._get_ops_details():
        if operator["op_name"] in layers:
            seen += 1
            activation, weight, bias = (kinds[i] for i in operator["inputs"])
            assert (activation, weight, bias) == (np.int8, np.int8, np.int32)
            assert kinds[operator["outputs"][0]] == np.int8
    assert seen == 5


def test_every_layer_is_taken_by_xnnpack(emitted):
    runtime = interpreter.Interpreter(str(emitted("tflite", "int8").path))
    runtime.allocate_tensors()
    operators = runtime._get_ops_details()
    taken = [set(one["inputs"]) for one in operators if one["op_name"] == "DELEGATE"]
    layers = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    weights = [one["inputs"][1] for one in operators if one["op_name"] in layers]
    assert len(weights) == 5
    assert all(any(weight in inputs for inputs in taken) for weight in weights)


def _onnx_decision(path: Path):
    """Weights by shape, and every activation's (scale, zero point as int8)."""
    graph = onnx.load(path).graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights, activations = [], set()
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weights.append((constants[node.input[0]], constants[node.input[1]]))
        elif node.op_type == "QuantizeLinear":
            scale, zero = (constants[name] for name in node.input[1:3])
            activations.add((float(scale), int(zero) - 128))
    return weights, activations


def _tflite_decision(path: Path):
    runtime = _litert(path)
    runtime.allocate_tensors()
    weights, activations = [], set()
    for detail in runtime.get_tensor_details():
        found = detail["quantization_parameters"]
        if detail["dtype"] != np.int8 or not len(found["scales"]):
            continue
        if len(found["scales"]) > 1:
            stored = runtime.get_tensor(detail["index"])
            if stored.ndim == 4:  # [out, h, w, in], or [1, h, w, channels] of a depthwise layer
                axes = (0, 3, 1, 2) if found["quantized_dimension"] == 0 else (3, 0, 1, 2)
                stored = stored.transpose(axes)
            weights.append((stored, found["scales"]))
        else:
            activations.add((float(found["scales"][0]), int(found["zero_points"][0])))
    return weights, activations


def _operations(path: Path):
    model = Model_pb2.Model()
    package = Package(path)
    model.ParseFromString(package.specification())
    return read_function(model.mlProgram.functions["main"], package, 10**6).operations


def _coreml_decision(path: Path):
    operations = _operations(path)
    constants = {
        operation.outputs[0].name: operation.arguments["val"]
        for operation in operations
        if operation.kind == "const"
    }

    def value(operation, name, default=None):
        if name not in operation.arguments:
            return default
        (argument,) = operation.arguments[name]
        if isinstance(argument, Reference):
            (argument,) = constants[argument.name]
        return np.asarray(argument.value)

    weights, activations = [], set()
    for operation in operations:
        if operation.kind == "constexpr_affine_dequantize":
            weights.append((value(operation, "quantized_data"), value(operation, "scale")))
        elif operation.kind == "quantize":
            zero = int(value(operation, "zero_point", 0))
            # A parameter at the floor comes out as uint8: the same, 128 further up.
            unsigned = str(value(operation, "output_dtype")) == "uint8"
            activations.add((float(value(operation, "scale")), zero - 128 * unsigned))
    return weights, activations


def test_the_three_int8_artifacts_carry_one_decision(emitted):
    decisions = [
        _onnx_decision(emitted("onnx", "int8").path),
        _tflite_decision(emitted("tflite", "int8").path),
        _coreml_decision(emitted("coreml", "int8").path),
    ]

    def canonical(weights):
        return sorted(
            (np.asarray(w, np.int8).tobytes(), np.asarray(s, np.float32).ravel().tobytes())
            for w, s in weights
        )

    (onnx_weights, onnx_scales), (tflite_weights, tflite_scales), (mil_weights, mil_scales) = (
        decisions
    )
    assert len(onnx_weights) == 5
    assert canonical(onnx_weights) == canonical(tflite_weights) == canonical(mil_weights)
    assert onnx_scales == tflite_scales
    # coremltools divides both sides of an addition by the scale of one; all others stay.
    ratios = {(np.float32(a) / np.float32(b), z) for a, z in onnx_scales for b, _ in onnx_scales}
    assert len(mil_scales & onnx_scales) >= len(onnx_scales) - 1
    assert (mil_scales - onnx_scales) <= ratios


_AGAIN = """
import sys
from pathlib import Path
import torch
from fakes.networks import RESIDUAL_SIGNATURE, pictures, residual
from skerry.converter.emit import emit
from skerry.converter.emit.inputs import float_module
from skerry.converter.quantize import calibrate
torch.set_num_threads(1)
example = (pictures(32, seed=0),)
quantized = calibrate(residual(), example, [(pictures(32, s),) for s in range(4)])
for fmt in ("onnx", "tflite", "coreml"):
    emit(fmt, "int8", quantized, example, RESIDUAL_SIGNATURE, Path(sys.argv[1]))
    emit(fmt, "int4-weights", residual(), example, RESIDUAL_SIGNATURE, Path(sys.argv[1]))
for precision in ("palette4-weights", "sparse-palette4-weights"):
    emit("coreml", precision, residual(), example, RESIDUAL_SIGNATURE, Path(sys.argv[1]))
"""


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_another_process_emits_the_same_bytes(emitted, folder, tmp_path):
    for fmt in _FORMATS:
        emitted(fmt, "int8")
        emitted(fmt, "int4-weights")
    for precision in ("palette4-weights", "sparse-palette4-weights"):
        emitted("coreml", precision)
    tests = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, "-c", _AGAIN, str(tmp_path)],
        check=True,
        cwd=tests,
        env={"PYTHONHASHSEED": "77", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(tests)},
        capture_output=True,
    )
    again, before = _digests(tmp_path), _digests(folder)
    assert again == {name: before[name] for name in again}


def test_files_tell_nothing_of_the_machine(emitted):
    content = emitted("onnx", "int8").path.read_bytes()
    assert b"stack_trace" not in content
    assert b".py" not in content
    assert str(Path(__file__).parent).encode() not in content


def test_importing_the_package_loads_no_framework():
    code = "import sys, skerry.converter.emit as e; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_every_pair_is_emitted_or_refused_with_a_reason():
    assert set(SUPPORT) == {(fmt, precision) for fmt in _FORMATS for precision in PRECISIONS}
    assert unsupported("onnx", "int3") is not None
    assert unsupported("savedmodel", "fp32") is not None


def test_a_precision_that_does_not_exist_is_refused(source, example, tmp_path):
    with pytest.raises(UnsupportedError, match="int3"):
        emit("onnx", "int3", source, example, RESIDUAL_SIGNATURE, tmp_path)
    assert not list(tmp_path.iterdir())


def test_int8_wants_a_quantized_model(source, example, tmp_path):
    with pytest.raises(InputError, match="quantized"):
        emit("tflite", "int8", source, example, RESIDUAL_SIGNATURE, tmp_path)


def test_a_float_precision_wants_the_module(quantized, example, tmp_path):
    with pytest.raises(InputError, match="quantized model"):
        emit("onnx", "fp32", quantized, example, RESIDUAL_SIGNATURE, tmp_path)


def test_a_signature_that_does_not_fit_is_refused(source, example, tmp_path):
    outputs = (TensorSpec("scores", "float32", (-1, 11)),)
    with pytest.raises(InputError, match="signature says"):
        emit(
            "onnx", "fp32", source, example, Signature(RESIDUAL_SIGNATURE.inputs, outputs), tmp_path
        )


def test_an_operator_without_lowering_is_named(tmp_path):
    class Strange(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    specs = Signature(
        (TensorSpec("x", "float32", (-1, 4, 4)),), (TensorSpec("y", "float32", (-1, 4)),)
    )
    example = (torch.randn(2, 4, 4),)
    for fmt in _FORMATS:
        with pytest.raises(UnsupportedError) as caught:
            emit(fmt, "fp32", Strange().eval(), example, specs, tmp_path)
        assert caught.value.where == fmt


def test_weights_of_one_shape_and_another_layout_stay_apart(tmp_path):
    """Training leaves weights channels last; the TFLite converter knew copies by their address."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(6)]
    model = torch.nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)
    example = (torch.randn(2, 16, 6, 6),)
    signature = Signature(
        (TensorSpec("x", "float32", (-1, 16, 6, 6)),),
        (TensorSpec("y", "float32", (-1, 16, 6, 6)),),
    )
    made = emit("tflite", "fp32", model, example, signature, tmp_path)
    runner = interpreter.Interpreter(str(made.path)).get_signature_runner()
    row = example[0][:1]
    with torch.no_grad():
        np.testing.assert_allclose(runner(x=row.numpy())["y"], model(row).numpy(), atol=1e-4)


def test_words_that_core_ml_reserves_get_a_name_of_their_own_in_the_package(tmp_path):
    """Callers keep theirs. coremltools would rename them on its own, and tell nobody."""

    class Both(torch.nn.Module):
        def forward(self, state, bool_):
            return state + bool_, state * bool_

    def row(name: str) -> TensorSpec:
        return TensorSpec(name, "float32", (-1, 3))

    names = ("state", "bool"), ("tensor", "state_")
    signature = Signature(*(tuple(row(name) for name in some) for some in names))
    example = (torch.zeros(2, 3), torch.zeros(2, 3))
    made = emit("coreml", "fp32", Both().eval(), example, signature, tmp_path)
    assert [spec.name for spec in made.inputs] == ["state__", "bool_"]
    assert [spec.name for spec in made.outputs] == ["tensor_", "state_"]

    from coremltools.models import MLModel

    described = MLModel(str(made.path), skip_model_load=True).get_spec().description
    assert [one.name for one in described.input] == ["state__", "bool_"]
    assert [one.name for one in described.output] == ["tensor_", "state_"]
    rows = {name: np.full((2, 3), number, np.float32) for number, name in enumerate(names[0], 2)}
    runner = open_runner(made, *names)
    found = runner(rows)
    assert (found["tensor"] == 5).all() and (found["state_"] == 6).all()
