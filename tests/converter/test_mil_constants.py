"""A Core ML program with its small constants written once computes what it did."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.proto import Model_pb2

from fakes.mlpackage import from_mil
from fakes.networks import RESIDUAL_SIGNATURE, pictures, residual
from skerry.converter.coreml_exec import MilProgram
from skerry.converter.emit import emit
from skerry.converter.emit.mil_constants import share_constants
from skerry.converter.quantize import calibrate

_SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"


def _model(package: Path) -> Any:
    model = Model_pb2.Model()
    model.ParseFromString((package / _SPECIFICATION).read_bytes())
    return model


def _constants(block: Any) -> list[Any]:
    return [
        one
        for one in block.operations
        if one.type == "const" and one.attributes["val"].WhichOneof("value") == "immediateValue"
    ]


def test_an_int8_package_holds_each_constant_once_and_coremltools_reads_it(tmp_path):
    torch.set_num_threads(1)
    example = (pictures(32, seed=0),)
    model = calibrate(residual(), example, [(pictures(32, 1),)])
    made = emit("coreml", "int8", model, example, RESIDUAL_SIGNATURE, tmp_path)
    (block,) = _model(made.path).mlProgram.functions["main"].block_specializations.values()
    values = Counter(
        one.attributes["val"].SerializeToString(deterministic=True) for one in _constants(block)
    )
    assert len(values) > 5
    assert set(values.values()) == {1}
    given = [item.name for one in block.operations for item in one.outputs]
    assert len(given) == len(set(given))
    # Builds the program anew from the specification, and so checks every name and type.
    again = ct.models.MLModel(str(made.path), skip_model_load=True)
    assert ct.optimize.coreml.get_weights_metadata(again, weight_threshold=0)


def test_loops_branches_and_results_keep_what_they_read(tmp_path):
    def program(x):
        two, also_two = mb.const(val=np.float32(2)), mb.const(val=np.float32(2))
        given = mb.const(val=np.float32([2.0]))
        same = mb.const(val=np.float32([2.0]))
        total = mb.reduce_sum(x=x, axes=[0], keep_dims=False)

        def turn(value):
            return mb.cond(
                pred=mb.greater(x=value, y=two),
                _true_fn=lambda: mb.sub(x=value, y=also_two),
                _false_fn=lambda: mb.add(x=value, y=mb.const(val=np.float32(2))),
            )

        last = mb.while_loop(
            _cond=lambda value: mb.greater(x=value, y=also_two),
            _body=turn,
            loop_vars=(total,),
        )
        either = mb.cond(
            pred=mb.greater(x=total, y=two), _true_fn=lambda: given, _false_fn=lambda: same
        )
        return mb.mul(x=mb.add(x=x, y=also_two), y=last), mb.mul(x=either, y=same)

    before = from_mil(program, [(3,)], tmp_path)
    package = tmp_path / "model.mlpackage"
    model = _model(package)
    size = model.ByteSize()
    share_constants(model.mlProgram.functions["main"])
    assert model.ByteSize() < size
    (package / _SPECIFICATION).write_bytes(model.SerializeToString(deterministic=True))
    after = MilProgram.load(package)
    assert [one.name for one in after.outputs] == [one.name for one in before.outputs]
    name = before.inputs[0].name
    for rows in ([0.5, 0.25, 0.0], [3.0, 4.0, 2.5]):
        inputs = {name: np.float32(rows)}
        expected, got = before.run(inputs), after.run(inputs)
        for output, values in expected.items():
            np.testing.assert_array_equal(got[output], values)
