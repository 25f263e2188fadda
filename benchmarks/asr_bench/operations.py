"""Operations and bytes of an ONNX model, counted node by node from the shapes that it really has on an input."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from asr_runtime.errors import EngineError

# Nodes that only name, view or describe data, for which no bytes need move.
FREE = {"Shape", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Constant", "ConstantOfShape", "Range", "Flatten"}
# About so many operations for each element of the output; one where nothing stands here.
PER_ELEMENT = {
    "LayerNormalization": 8,
    "Softmax": 4,
    "LogSoftmax": 4,
    "Gelu": 8,
    "Transpose": 0,
    "Concat": 0,
    "Cast": 0,
}
RECURRENT = {"GRU", "LSTM", "RNN"}
MATRIX = {"MatMul", "Gemm", "Conv", "MatMulInteger", "ConvInteger", *RECURRENT}
UNCOUNTED = {"Loop", "Scan", "If", "MatMulNBits", "QLinearMatMul", "QLinearConv", "Einsum", "Attention"}

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Count:
    """Of one run on `audio_seconds` (all of a batch together).

    `matrix_operations` are those of matrix products, convolutions and recurrent layers, where a multiplication and
    an addition count as two; `other_operations` is about the rest. `weight_bytes` are read once a run, a recurrent
    layer's hidden weights at every step; `activation_bytes` is what all nodes read and write beside, if nothing stays
    in a cache and no nodes are fused.
    """

    audio_seconds: float
    matrix_operations: int
    other_operations: int
    weight_bytes: int
    activation_bytes: int


def count(model: Path, batch: int, seconds: float, rate: int) -> Count:
    """Count a batch of recordings of the same length; raises EngineError for a model with nodes it cannot count."""
    graph = onnx.load(str(model))
    if strange := sorted({node.op_type for node in graph.graph.node} & UNCOUNTED):
        raise EngineError(f"{model.name} has {', '.join(strange)} nodes, whose operations cannot be counted.")
    arrays, weights = values(graph, batch, round(seconds * rate))
    matrix = other = read = moved = 0
    for node in graph.graph.node:
        if node.op_type in FREE or set(node.output) <= weights:
            continue
        operations = operations_of(node, arrays)
        matrix, other = (matrix + operations, other) if node.op_type in MATRIX else (matrix, other + operations)
        read += _weight_bytes(node, arrays, weights)
        moved += sum(arrays[name].nbytes for name in [*node.input, *node.output] if name in arrays.keys() - weights)
    return Count(batch * seconds, matrix, other, read, moved)


def values(graph: onnx.ModelProto, batch: int, samples: int) -> tuple[Arrays, set[str]]:
    """Every value of a run on noise, and the names of those that do not depend on the input."""
    weights = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    constant = set(weights)
    for node in graph.graph.node:  # weights in 16 bits are cast: what becomes of weights alone is weights, too
        if set(node.input) - {""} <= constant:
            constant |= set(node.output)
    named = [name for node in graph.graph.node for name in node.output if name]
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in named)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).normal(0, 0.1, (batch, samples)).astype(np.float32)
    given = {"waveform": noise, "lengths": np.full(batch, samples, np.int64)}
    found = dict(zip(named, session.run(named, given), strict=True))
    return {**weights, **given, **found}, constant


def operations_of(node: onnx.NodeProto, arrays: Arrays) -> int:
    """About how many operations a node takes."""
    result = arrays[node.output[0]] if node.output[0] else arrays[node.output[1]]
    if node.op_type in RECURRENT:  # inputs [steps, batch, in], weights [directions, gates, in] and [.., hidden]
        steps, batch, _ = arrays[node.input[0]].shape
        return int(2 * steps * batch * (arrays[node.input[1]].size + arrays[node.input[2]].size))
    if node.op_type in ("Conv", "ConvInteger"):  # weights [out, in / groups, kernel…]
        return 2 * result.size * prod(arrays[node.input[1]].shape[1:])
    if node.op_type in MATRIX:
        transposed = any(item.name == "transA" and item.i for item in node.attribute)
        return int(2 * result.size * arrays[node.input[0]].shape[0 if transposed else -1])
    return PER_ELEMENT.get(node.op_type, 1) * result.size


def _weight_bytes(node: onnx.NodeProto, arrays: Arrays, weights: set[str]) -> int:
    read = sum(arrays[name].nbytes for name in node.input if name in weights)
    if node.op_type in RECURRENT:
        read += (len(arrays[node.input[0]]) - 1) * arrays[node.input[2]].nbytes
    return read
