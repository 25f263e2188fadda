"""Each GRU node of a graph as a Scan over its frames, for TensorRT.

TensorRT's parser writes a GRU's own constants (the 1 of 1 - z, the state at the beginning) in float32, which a strongly
typed network in float16 refuses in older versions. A Scan brings constants of the graph's own type. Both directions
share one loop; the products with the inputs lie outside it. Needs the onnx package only: engines are built on the
machine that runs them, where there is no PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

GATES = 3  # z, r, h in ONNX's order
DIRECTIONS = ("forward", "backward")


def with_scans(model: onnx.ModelProto, rewriter: type[Rewriter] | None = None) -> onnx.ModelProto:
    """A copy of `model`, a file of asr-export, in which no node is a GRU: the same values to rounding.

    `rewriter` may write products in another way.

    Raises ValueError for a GRU that asr-export does not write: only bidirectional ones with `linear_before_reset`,
    without `sequence_lens` and given state, whose last state nobody uses, are rewritten.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if not any(node.op_type == "GRU" for node in made.graph.node):
        return made
    types = element_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "GRU":
            loop = (rewriter or Rewriter)(node, types.get(node.input[0]) if node.input else None, model)
            nodes += loop.nodes()
            made.graph.initializer.extend(loop.stored)
        else:
            nodes.append(node)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value that shape inference knows."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input]}


class Rewriter:
    """The nodes in place of one GRU of X [frames, batch, inputs], W, R and B, and output [frames, 2, batch, size]."""

    def __init__(self, gru: onnx.NodeProto, element: int | None, model: onnx.ModelProto) -> None:
        attributes = {each.name: helper.get_attribute_value(each) for each in gru.attribute}
        known = {"direction": b"bidirectional", "linear_before_reset": 1, "hidden_size": attributes.get("hidden_size")}
        if attributes != known or len(gru.input) != 4 or len(gru.output) != 1 or element is None:
            raise ValueError(f"the GRU {gru.name} is not one that asr-export writes")
        self.name, self.inputs, self.output = gru.name, list(gru.input), gru.output[0]
        self.size, self.element = int(attributes["hidden_size"]), element
        self.made: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []  # initializers that join the graph

    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes, in order."""
        x, w, r, b = self.inputs
        state = self.zeros(x)
        parts = {kind: self.split(kind, value) for kind, value in (("W", w), ("R", r), ("B", b))}
        projected, bodies = [], []
        for i, direction in enumerate(DIRECTIONS):
            product = self.input_product(parts["W"][i], i, direction)
            inputs, recurrent = self.halves(parts["B"][i], direction)
            projected.append(self.add("Add", product, inputs, name=f"{direction}.projected"))
            bodies.append((self.recurrent_weight(parts["R"][i], direction), recurrent))
        outputs = [f"{self.name}.{direction}" for direction in DIRECTIONS]
        last = [f"{self.name}.{direction}.last" for direction in DIRECTIONS]
        self.made.append(
            helper.make_node(
                "Scan",
                [state, state, *projected],
                [*last, *outputs],
                f"{self.name}.scan",
                body=self.body(bodies),
                num_scan_inputs=2,
                scan_input_directions=[0, 1],
                scan_output_directions=[0, 1],
            )
        )
        one = self.constant("direction", np.array([1]))
        stacked = [self.add("Unsqueeze", value, one, name=f"{value.split('.')[-1]}.direction") for value in outputs]
        self.made.append(helper.make_node("Concat", stacked, [self.output], self.name, axis=1))
        return self.made

    def input_product(self, weight: str, number: int, direction: str) -> str:
        """X times the weights of one direction, outside the loop."""
        columns = self.add("Transpose", weight, name=f"{direction}.W", perm=[1, 0])
        return self.add("MatMul", self.inputs[0], columns, name=f"{direction}.product")

    def recurrent_weight(self, weight: str, direction: str) -> str:
        """What the loop's body multiplies its states by."""
        return self.add("Transpose", weight, name=f"{direction}.R", perm=[1, 0])

    def recurrent_product(self, weight: str, number: int, state: str) -> tuple[str, list[onnx.NodeProto]]:
        """The state times the weights of direction `number`, and the nodes in the loop's body that make it."""
        product = f"{state}.weighted"
        return product, [helper.make_node("MatMul", [state, weight], [product], product)]

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append a node of one output and return that value's name."""
        value = f"{self.name}.scan.{name}"
        self.made.append(helper.make_node(operator, list(inputs), [value], value, **attributes))
        return value

    def constant(self, name: str, value: npt.NDArray[np.int64]) -> str:
        """A constant as a node."""
        return self.add("Constant", name=name, value=numpy_helper.from_array(value))

    def zeros(self, x: str) -> str:
        """The state at the beginning: zeros [batch, size]."""
        batch = self.add("Shape", x, name="batch", start=1, end=2)
        shape = self.add("Concat", batch, self.constant("size", np.array([self.size])), name="state.shape", axis=0)
        zero = helper.make_tensor("zero", self.element, [1], [0.0])
        return self.add("ConstantOfShape", shape, name="state", value=zero)

    def split(self, kind: str, value: str) -> list[str]:
        """The two directions of W, R or B, without their axis."""
        axis = self.constant(f"{kind}.axis", np.array([0]))
        names = [f"{self.name}.scan.{kind}.{direction}" for direction in DIRECTIONS]
        halves = [f"{name}.kept" for name in names]
        self.made.append(helper.make_node("Split", [value], halves, f"{self.name}.scan.{kind}", axis=0))
        for half, name in zip(halves, names, strict=True):
            self.made.append(helper.make_node("Squeeze", [half, axis], [name], name))
        return names

    def halves(self, bias: str, direction: str) -> tuple[str, str]:
        """The biases of inputs and of states, each [3 · size]."""
        names = (f"{self.name}.scan.{direction}.Wb", f"{self.name}.scan.{direction}.Rb")
        self.made.append(helper.make_node("Split", [bias], names, f"{self.name}.scan.{direction}.B", axis=0))
        return names

    def body(self, weights: Sequence[tuple[str, str]]) -> onnx.GraphProto:
        """One frame of both directions: states and projected inputs in, states out, and again as outputs."""
        nodes: list[onnx.NodeProto] = []
        for number, (direction, (rows, bias)) in enumerate(zip(DIRECTIONS, weights, strict=True)):
            product, made = self.recurrent_product(rows, number, f"{self.name}.{direction}.state")
            nodes += made + self.cell(direction, product, bias)
        return helper.make_graph(
            nodes,
            f"{self.name}.frame",
            [self.value(f"{direction}.state", self.size) for direction in DIRECTIONS]
            + [self.value(f"{direction}.input", GATES * self.size) for direction in DIRECTIONS],
            [self.value(f"{direction}.next", self.size) for direction in DIRECTIONS]
            + [self.value(f"{direction}.output", self.size) for direction in DIRECTIONS],
        )

    def value(self, name: str, size: int) -> onnx.ValueInfoProto:
        """An input or output [batch, size] of the loop's body."""
        return helper.make_tensor_value_info(f"{self.name}.{name}", self.element, ["batch", size])

    def cell(self, direction: str, product: str, bias: str) -> list[onnx.NodeProto]:
        """h' = z · h + (1 - z) · tanh(Wx + r · (Rh + b)), written as n + z · (h - n)."""
        made: list[onnx.NodeProto] = []

        def add(operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> None:
            names = [item if item in (product, bias) else f"{self.name}.{direction}.{item}" for item in inputs]
            values = [f"{self.name}.{direction}.{item}" for item in outputs]
            made.append(helper.make_node(operator, names, values, values[0], **attributes))

        lengths = helper.make_tensor("lengths", TensorProto.INT64, [2], [2 * self.size, self.size])
        add("Constant", [], "gates", value=lengths)
        add("Add", [product, bias], "recurrent")
        add("Split", ["recurrent", "gates"], "recurrent.zr", "recurrent.n", axis=-1)
        add("Split", ["input", "gates"], "input.zr", "input.n", axis=-1)
        add("Add", ["input.zr", "recurrent.zr"], "zr.sum")
        add("Sigmoid", ["zr.sum"], "zr")
        add("Split", ["zr"], "z", "r", axis=-1)
        add("Mul", ["r", "recurrent.n"], "n.kept")
        add("Add", ["input.n", "n.kept"], "n.sum")
        add("Tanh", ["n.sum"], "n")
        add("Sub", ["state", "n"], "difference")
        add("Mul", ["z", "difference"], "change")
        add("Add", ["n", "change"], "next")
        add("Identity", ["next"], "output")
        return made
