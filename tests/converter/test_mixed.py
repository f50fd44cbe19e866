"""Mixed precision: the rules in numbers, and a model built so that int8 alone fails it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fakes.networks import RESIDUAL_SIGNATURE, pictures, residual
from skerry.cli.main import main
from skerry.converter.emit import emit
from skerry.converter.emit.support import supported_levels
from skerry.converter.mixed import Finding, choices, climb, fewest, moves, worst_first
from skerry.converter.proof import open_runner
from skerry.converter.quantize import Scheme, calibrate
from skerry.converter.quantize.alone import alone, sites
from skerry.devices.errors import ExitCode, InputError

_LEVELS = ("int16", "fp16", "fp32")


def _finding(layer: str, snr_db: float, effect: float = 0.0) -> Finding:
    return Finding(layer, "conv2d", snr_db, effect)


def test_what_costs_points_beyond_doubt_comes_first_then_what_is_noisy() -> None:
    found = [_finding("a", 30), _finding("b", 20, 0.4), _finding("c", 25, 5), _finding("d", 10)]
    assert [one.layer for one in worst_first(found, doubt=0.5)] == ["c", "d", "b", "a"]


def test_the_cheapest_level_that_is_as_quiet_as_the_middle_layer() -> None:
    found = [_finding("a", 10), _finding("b", 40), _finding("c", 50)]
    noise = {"int16": 12.0, "fp16": 60.0, "fp32": 200.0}
    quiet = (("fp16", 60.0), ("fp32", 200.0))
    assert climb(found[0], found, _LEVELS, noise.__getitem__) == quiet
    noise["int16"] = 45.0
    assert climb(found[0], found, _LEVELS, noise.__getitem__) == (("int16", 45.0), *quiet)
    assert climb(found[0], found, ("int16",), {"int16": 11.0}.__getitem__) == (("int16", 11.0),)


def test_where_raising_all_is_not_enough_the_noisiest_go_on() -> None:
    steps = {
        "a": (("int16", 15.0), ("fp16", 70.0)),
        "b": (("int16", 11.0), ("fp16", 60.0), ("fp32", 200.0)),
        "c": (("fp32", 200.0),),
    }
    assert [(layer, level) for layer, (level, _) in moves(steps)] == [
        *[("a", "int16"), ("b", "int16"), ("c", "fp32")],
        *[("b", "fp16"), ("a", "fp16"), ("b", "fp32")],
    ]
    assert moves({}) == ()


@pytest.mark.parametrize("most", range(9))
@pytest.mark.parametrize("needed", [0, 1, 2, 3, 5, 8, 9])
def test_the_fewest_layers_are_found(most: int, needed: int) -> None:
    asked = []

    def holds(count: int) -> bool:
        asked.append(count)
        return count >= needed

    assert fewest(most, holds) == (needed if needed <= most else None)
    assert len(asked) == len(set(asked))
    assert set(asked) <= set(range(most + 1))


def test_the_table_has_every_layer() -> None:
    rows = choices([_finding("a", 10), _finding("b", 40)], {"a": ("fp16", 70.0)})
    assert [(row.layer, row.level, row.level_db) for row in rows] == [
        ("a", "fp16", 70.0),
        ("b", "int8", 40),
    ]


def test_levels_are_those_that_every_format_has() -> None:
    assert supported_levels(["onnx"]) == _LEVELS
    assert supported_levels(["onnx", "tflite"]) == supported_levels(["coreml"]) == ("fp16", "fp32")


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor]]:
    torch.set_num_threads(1)
    return [(pictures(32, seed),) for seed in range(2)]


def _raised(batches: list[tuple[torch.Tensor]], **layers: str):
    scheme = Scheme(raised=tuple(layers.items()))  # type: ignore[arg-type]
    return calibrate(residual(), batches[0], batches, scheme)


def test_a_layer_alone_is_noisier_than_none_and_quieter_than_all(batches) -> None:
    model = _raised(batches)
    rows = batches[1][0]
    with torch.no_grad():
        exact = residual()(rows)

        def noise(found: torch.Tensor) -> float:
            return float((found - exact).pow(2).mean())

        found = sites(model.decided)
        for site in found:
            rounded, exact_again = (
                alone(model.decided, site, level)(rows) for level in ("int8", "fp32")
            )
            assert 0 < noise(rounded) < noise(model(rows))
            assert noise(exact_again) < 1e-9
    assert len(found) == len({site.layer for site in found}) == 7
    assert {site.layer for site in found} >= {"stem", "first", "second", "last", "head"}


def test_a_layer_that_is_not_there_is_named(batches) -> None:
    with pytest.raises(InputError, match=r"no layer 'haed'.*head"):
        _raised(batches, haed="fp32")


def _counts(path: Path) -> Counter[str]:
    """The operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".run.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("level", _LEVELS)
def test_onnx_runtime_computes_a_raised_layer_in_more_than_int8(level, batches, tmp_path) -> None:
    plain, raised = _raised(batches), _raised(batches, first=level, head=level)
    rows = batches[0][0]
    paths, bytes_of = {}, {}
    for name, model in (("plain", plain), ("raised", raised)):
        made = emit("onnx", "int8", model, (rows[:2],), RESIDUAL_SIGNATURE, tmp_path / name)
        paths[name], bytes_of[name] = made.path, made.path.stat().st_size
        found = open_runner(made, ("image",), ("scores",))({"image": rows.numpy()})["scores"]
        assert float(np.abs(found - model(rows).numpy()).max()) < 0.05 * float(np.ptp(found))
    before, after = _counts(paths["plain"]), _counts(paths["raised"])
    assert before["QLinearConv"] - after["QLinearConv"] == 1
    assert before["QGemm"] - after["QGemm"] == 1
    assert after["Conv"] + after["FusedConv"] - before["Conv"] - before["FusedConv"] == 1
    weights = [one for one in onnx.load(paths["raised"]).graph.initializer if len(one.dims) > 1]
    kept = {one.data_type for one in weights if np.prod(one.dims) >= 64}
    wanted = {"int16": set(), "fp16": {onnx.TensorProto.FLOAT16}, "fp32": {onnx.TensorProto.FLOAT}}
    assert kept - {onnx.TensorProto.INT8} == wanted[level]
    assert bytes_of["raised"] > bytes_of["plain"]


@pytest.mark.slow
def test_tflite_and_core_ml_compute_raised_layers_in_floating_point(batches, tmp_path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = _raised(batches, first="fp32", head="fp16")
    rows = batches[0][0][:8]
    made = {
        form: emit(form, "int8", model, (rows[:2],), RESIDUAL_SIGNATURE, tmp_path)
        for form in ("tflite", "coreml")
    }
    for one in made.values():
        runner = open_runner(one, ("image",), ("scores",))
        found = np.concatenate([runner({"image": row[None].numpy()})["scores"] for row in rows])
        assert float(np.abs(found - model(rows).numpy()).max()) < 0.05 * float(np.ptp(found))
    content = made["tflite"].path.read_bytes()
    file = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = file.subgraphs[0]
    kinds = Counter()
    for operator in graph.operators:
        code = file.operatorCodes[operator.opcodeIndex].builtinCode
        if code in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED):
            kinds[code, graph.tensors[operator.inputs[1]].type] += 1
    floats = {code for (code, kind) in kinds if kind == schema.TensorType.FLOAT32}
    assert floats == {schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED}
    assert kinds[schema.BuiltinOperator.CONV_2D, schema.TensorType.FLOAT32] == 1
    assert schema.TensorType.FLOAT16 in {tensor.type for tensor in graph.tensors}


_STRETCHED = """

class Stretched(nn.Module):
    '''Two channels of the stream are a hundred times the others, to no effect on the answers.'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.wide = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        x = torch.relu(self.wide(torch.relu(self.last(x))))
        return self.head(x.mean((2, 3)))

    def stretch(self, factor):
        with torch.no_grad():
            for channel in (0, 1):
                for layer in (self.stem, self.outer):
                    layer.weight[channel] *= factor
                    layer.bias[channel] *= factor
                for layer in (self.inner, self.last):
                    layer.weight[:, channel] /= factor
        return self

def stretched():
    return Stretched()
"""


@pytest.fixture
def stretched(project: Path) -> Path:
    """The project with a model that int8 alone fails, whatever the calibrator."""
    from safetensors.torch import save_file

    (project / "model.py").write_text((project / "model.py").read_text() + _STRETCHED)
    scope: dict = {}
    exec((project / "model.py").read_text(), scope)
    exec((project / "data.py").read_text(), scope)
    torch.set_num_threads(1)
    model = scope["Stretched"]()
    rows = scope["train"]()
    images = (torch.from_numpy(rows["image"]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    labels = torch.from_numpy(rows["label"])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    save_file(model.stretch(300.0).state_dict(), project / "net.safetensors")
    recipe = (project / "recipe.toml").read_text().replace("model.py:net", "model.py:stretched")
    (project / "recipe.toml").write_text(recipe + "[gate]\naccuracy_drop = 1.0\n")
    return project


def _convert(project: Path, out: Path, *words: str) -> tuple[int, dict]:
    code = main(["convert", str(project / "recipe.toml"), "--out", str(out), "--json", *words])
    return code, json.loads((out / "result.json").read_text())


def test_mixed_precision_meets_a_gate_that_int8_alone_fails(stretched: Path, capsys) -> None:
    code, plain = _convert(stretched, stretched / "plain")
    assert code == ExitCode.GATE_FAILED
    code, mixed = _convert(
        stretched, stretched / "mixed", "--set", "quantize.mixed={ most = 0.8, rows = 128 }"
    )
    assert code == ExitCode.OK
    levels = {row["layer"]: row["level"] for row in mixed["mixed"]}
    assert set(levels.values()) > {"int8"}
    alone_db = {row["layer"]: row["snr_db"] for row in mixed["mixed"]}
    raised = [name for name, level in levels.items() if level != "int8"]
    assert max(alone_db[name] for name in raised) <= min(
        alone_db[name] for name in levels if name not in raised
    )
    assert plain["artifacts"][0]["bytes"] < mixed["artifacts"][0]["bytes"]
    report = (stretched / "mixed" / "report.html").read_text()
    assert "Precision of each layer" in report
    capsys.readouterr()


def test_validation_rows_choose_and_evaluation_rows_judge(stretched: Path, capsys) -> None:
    # Rows with labels that the source gets wrong: int8 loses nothing there, so nothing is raised.
    wrong = """
def wrong():
    rows = _quadrants(96, 5)
    return {**rows, "label": (rows["label"] + 1) % 4}
"""
    (stretched / "data.py").write_text((stretched / "data.py").read_text() + wrong)
    recipe = stretched / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[data]", '[data]\nvalidation = "data.py:wrong"'))
    code, found = _convert(stretched, stretched / "out", "--set", "quantize.mixed={ rows = 64 }")
    assert {row["level"] for row in found["mixed"]} == {"int8"}
    assert code == ExitCode.GATE_FAILED


def test_a_gate_that_nothing_meets_is_failed_with_one_layer_left_in_int8(
    stretched: Path, capsys
) -> None:
    words = ("--set", "quantize.mixed={ most = 1.0, rows = 64 }", "--set", "gate.agreement=1.0")
    settings = ("--set", "gate.snr_db=200.0", "--set", 'target.formats=["onnx"]')
    code, found = _convert(stretched, stretched / "never", *words, *settings)
    assert code == ExitCode.GATE_FAILED
    assert [row["level"] for row in found["mixed"]].count("int8") == 1
    capsys.readouterr()
