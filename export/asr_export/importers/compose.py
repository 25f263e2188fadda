"""Graphs of others behind nodes of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from asr_export.builder import IR_VERSION, GraphBuilder
from asr_export.graph import recogniser


def composed(
    graph: GraphBuilder,
    body: onnx.ModelProto,
    feeds: Mapping[str, str],
    output: str,
    tokens: Sequence[str],
    sample_rate: int,
    frame_seconds: float,
) -> onnx.ModelProto:
    """What `graph` collected, then the nodes of `body` under names of their own, with a bundle's signature.

    `feeds` says which value goes into which input of `body`, whose `output` are log-probabilities or logits. The value
    `frames` must be there. The operator set is that of `body`, which has to know the nodes of `graph`.
    """
    inner = onnx.compose.add_prefix(body, "original.")
    for name, value in feeds.items():
        graph.node("Identity", value, name=f"original.{name}")
    graph.nodes += inner.graph.node
    made = recogniser(graph, f"original.{output}", tokens, sample_rate, frame_seconds)
    made.graph.initializer.extend(inner.graph.initializer)
    made.graph.sparse_initializer.extend(inner.graph.sparse_initializer)
    made.functions.extend(inner.functions)
    del made.opset_import[:]
    made.opset_import.extend(inner.opset_import)
    made.ir_version = max(IR_VERSION, inner.ir_version)
    return made
