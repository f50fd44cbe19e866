"""Models and bundles made for measuring."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from skerry.runtime.bundle.card import TensorSpec, Tolerance
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle
from skerry.runtime.engine.select import open_engine

IMAGE = (3, 96, 96)


def conv_stack(path: Path, layers: int, channels: int = 16, shape: tuple[int, ...] = IMAGE) -> Path:
    """An fp32 network of `layers` 3×3 convolutions with ReLU, a mean over the image and a Gemm."""
    rng = np.random.default_rng(0)
    nodes, weights, name, depth = [], [], "image", shape[0]
    for layer in range(layers):
        kernel = rng.normal(size=(channels, depth, 3, 3)) * (2 / (9 * depth)) ** 0.5
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{layer}"))
        strides = [2, 2] if layer in (layers // 3, 2 * layers // 3) else [1, 1]
        nodes += [
            helper.make_node(
                "Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1], strides=strides
            ),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        name, depth = f"r{layer}", channels
    head = rng.normal(size=(depth, 10)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "conv_stack",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def conv_bundle(folder: Path, layers: int, shape: tuple[int, ...] = IMAGE) -> Path:
    """A bundle of `conv_stack`, model name `linear`, input `x`, output `y`."""
    path = conv_stack(folder.parent / f"{folder.name}.onnx", layers, shape=shape)
    engine = open_engine("onnx", path)
    x = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    y = engine.run({"image": x})["scores"]
    engine.close()
    write_bundle(
        folder,
        model="linear",
        version="1",
        inputs=[TensorSpec("x", "float32", (-1, *shape))],
        outputs=[TensorSpec("y", "float32", (-1, 10))],
        artifacts=[
            ArtifactFile(
                path=path,
                format="onnx",
                precision="fp32",
                inputs=("image",),
                outputs=("scores",),
                tolerance=Tolerance(1e-3),
                golden={"y": y},
            )
        ],
        golden_inputs={"x": x},
    )
    return folder
