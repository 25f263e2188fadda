"""Which graphs are judged by their best tokens: those that round activations, wherever in the graph they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from asr_export.importers.packing import rounds_activations

Wrap = Callable[[onnx.NodeProto], onnx.ModelProto]


def node(operator: str, **attributes: Any) -> onnx.NodeProto:
    domain = "com.microsoft" if operator == "MatMulNBits" else ""
    return helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)


def model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto] | None = None) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y]), functions=functions or [])


def in_branch(inner: onnx.NodeProto) -> onnx.ModelProto:
    other, branch = (model([each]).graph for each in (helper.make_node("Relu", ["x"], ["y"]), inner))
    return model([helper.make_node("If", ["c"], ["y"], then_branch=other, else_branch=branch)])


def in_loop(inner: onnx.NodeProto) -> onnx.ModelProto:
    return model([helper.make_node("Scan", ["x"], ["y"], body=in_branch(inner).graph, num_scan_inputs=1)])


def in_function(inner: onnx.NodeProto) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "Layer", ["x"], ["y"], [*in_branch(inner).graph.node], opsets)
    return model([helper.make_node("Layer", ["x"], ["y"], domain="local")], [function])


@pytest.mark.parametrize("wrap", [lambda inner: model([inner]), in_branch, in_loop, in_function])
def test_rounding_is_found_at_any_depth(wrap: Wrap) -> None:
    assert rounds_activations(wrap(node("DynamicQuantizeLinear")))
    assert rounds_activations(wrap(node("MatMulNBits", K=2, N=2, accuracy_level=4)))
    assert not rounds_activations(wrap(node("Relu")))
    assert not rounds_activations(wrap(node("MatMulNBits", K=2, N=2, accuracy_level=1)))


def test_weights_of_few_bits_alone_round_nothing() -> None:
    assert not rounds_activations(model([node("MatMulNBits", K=2, N=2)]))
    assert not rounds_activations(model([node("DequantizeLinear")]))
