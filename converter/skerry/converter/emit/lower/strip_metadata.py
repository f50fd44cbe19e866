"""Drop what the exporter noted down for people: stack traces, module names, this machine's paths.

It is most of a small file's bytes, and differs from run to run.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["apply"]


def apply(model: ir.Model) -> None:
    """Clear the metadata and documentation of the model, its graph, nodes and values."""
    holders: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model, model.graph]
    holders += [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        holders += [node, *node.outputs]
    for holder in holders:
        holder.metadata_props.clear()
        holder.doc_string = None
