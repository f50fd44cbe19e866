"""Which tensors of a graph are quantized, and which share one decision. Looks, never changes.

The rules are those that every engine behind the three formats can run in integers: a convolution
or linear layer with the activation behind it is one operation; an addition takes quantized
inputs; what only moves values keeps their parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch.fx import Graph, Node

__all__ = ["Layer", "Placement", "Role", "analyse", "layer_of"]

_aten = torch.ops.aten

# Operations with weights → the axis of the weight that counts output channels.
_CHANNEL_AXIS: dict[object, int] = {
    _aten.conv1d.default: 0,
    _aten.conv2d.default: 0,
    _aten.conv2d.padding: 0,
    _aten.conv1d.padding: 0,
    _aten.linear.default: 0,
    _aten.conv_transpose2d.input: 1,
}
_MOVES = {
    _aten.contiguous.default,
    _aten.expand.default,
    _aten.flatten.using_ints,
    _aten.max_pool2d.default,
    _aten.avg_pool2d.default,
    _aten.permute.default,
    _aten.reshape.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.upsample_nearest2d.vec,
    _aten.view.default,
}
_PADS = {_aten.pad.default, _aten.constant_pad_nd.default}
_OWN = {_aten.adaptive_avg_pool2d.default, _aten.mean.dim}
_RECTIFIERS = {_aten.relu.default, _aten.relu6.default}
_CLAMPS = {_aten.hardtanh.default, _aten.clamp.default}


class Role(Enum):
    """What an operation asks of its tensors."""

    WEIGHTED = auto()  # inputs: activation, weight; the bias follows from both
    OWN = auto()  # every input quantized; the output has parameters of its own
    SHARED = auto()  # every input and the output have the same parameters


@dataclass(frozen=True, slots=True)
class Placement:
    """One operation to run in integers.

    Attributes:
        node: the operation.
        role: what it asks of its tensors.
        inputs: the activations it reads.
        output: the node whose result is quantized: `node`, or the activation behind it.
        weight: the weight it reads, if it has one.
        channel_axis: the axis of the weight that counts output channels.
    """

    node: Node
    role: Role
    inputs: tuple[Node, ...]
    output: Node
    weight: Node | None = None
    channel_axis: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer with a constant weight.

    Attributes:
        node: the operation.
        x, weight, bias: what it reads; weight and bias are `get_attr` nodes.
        axis: the axis of the weight that counts output channels.
    """

    node: Node
    x: Node
    weight: Node
    bias: Node | None
    axis: int


def layer_of(node: object, *, weight: Node | None = None) -> Layer | None:
    """The layer that a node is, or None.

    Args:
        weight: the constant behind its weight, where an observer stands between.
    """
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    axis = _CHANNEL_AXIS.get(node.target)
    if axis is None:
        return None
    x, read, bias = (*node.args, None)[:3]
    constant = weight if weight is not None else read
    if not isinstance(x, Node) or not isinstance(constant, Node) or constant.op != "get_attr":
        return None
    return Layer(node, x, constant, bias if isinstance(bias, Node) else None, axis)


def analyse(graph: Graph, left_out: Collection[Node] = ()) -> tuple[Placement, ...]:
    """Every operation of a functional ATen graph that is to run in integers, in graph order.

    Args:
        left_out: operations that are to stay in floating point.
    """
    constants = _constants(graph)
    quantized: set[Node] = set()  # results with parameters
    absorbed: set[Node] = set()  # activations that belong to the operation before them
    placed: list[Placement] = []
    for node in graph.nodes:
        if node.op != "call_function" or node in absorbed or node in left_out:
            continue
        for rule in _RULES:
            placement = rule(node, constants, quantized)
            if placement is not None:
                placed.append(placement)
                quantized.add(placement.output)
                if placement.output is not node:
                    absorbed.add(placement.output)
                break
    return tuple(placed)


def _constants(graph: Graph) -> set[Node]:
    """The nodes that no input reaches."""
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (
            node.op == "call_function"
            and node.all_input_nodes
            and all(read in found for read in node.all_input_nodes)
        ):
            found.add(node)
    return found


def _only_reader(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _behind_norm(node: Node) -> Node:
    """The batch norm that is the only reader of `node` (it folds into it), or `node` itself."""
    user = _only_reader(node)
    return user if user is not None and user.target is _aten.batch_norm.default else node


def _with_activation(node: Node) -> Node:
    """The ReLU, ReLU6 or clamp at zero that is the only reader of `node`, or `node` itself."""
    user = _only_reader(node)
    if user is None:
        return node
    if user.target in _RECTIFIERS:
        return user
    if user.target in _CLAMPS and len(user.args) > 1 and user.args[1] == 0:
        return user
    return node


def _tensors(node: Node) -> Iterator[Node]:
    for read in node.all_input_nodes:
        value = read.meta.get("val")
        if isinstance(value, torch.Tensor):
            yield read


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _weighted(node: Node, constants: set[Node], _: set[Node]) -> Placement | None:
    layer = layer_of(node)
    if layer is None or layer.x in constants:
        return None
    output = _with_activation(_behind_norm(node))
    return Placement(node, Role.WEIGHTED, (layer.x,), output, layer.weight, layer.axis)


def _addition(node: Node, constants: set[Node], quantized: set[Node]) -> Placement | None:
    if node.target is not _aten.add.Tensor or node.kwargs.get("alpha", 1) != 1:
        return None
    left, right = node.args
    if not isinstance(left, Node) or not isinstance(right, Node):
        return None
    if left in constants or right in constants or not {left, right} & quantized:
        return None
    if not (_is_float(left) and _is_float(right)):
        return None
    inputs = (left,) if left is right else (left, right)
    return Placement(node, Role.OWN, inputs, _with_activation(node))


def _own(node: Node, _: set[Node], quantized: set[Node]) -> Placement | None:
    if node.target not in _OWN | _RECTIFIERS or node.args[0] not in quantized:
        return None
    x = node.args[0]
    return Placement(node, Role.OWN, (x,), node) if isinstance(x, Node) else None


def _moved(node: Node, _: set[Node], quantized: set[Node]) -> Placement | None:
    if node.target not in _MOVES and not _is_zero_padding(node):
        return None
    x = node.args[0]
    if not isinstance(x, Node) or x not in quantized:
        return None
    return Placement(node, Role.SHARED, (x,), node)


def _is_zero_padding(node: Node) -> bool:
    if node.target not in _PADS:
        return False
    if node.target is _aten.constant_pad_nd.default:
        return len(node.args) <= 2 or node.args[2] in (0, 0.0)
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else None
    return mode == "constant" and value in (None, 0, 0.0)


def _joined(node: Node, constants: set[Node], quantized: set[Node]) -> Placement | None:
    if node.target is not _aten.cat.default:
        return None
    inputs = tuple(dict.fromkeys(_tensors(node)))
    if not quantized.intersection(inputs) or constants.intersection(inputs):
        return None
    return Placement(node, Role.SHARED, inputs, node)


_RULES: tuple[Callable[[Node, set[Node], set[Node]], Placement | None], ...] = (
    _weighted,
    _addition,
    _own,
    _moved,
    _joined,
)
