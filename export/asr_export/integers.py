"""Products of 8-bit integers: by a stored matrix, and those of a recurrent layer written as a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from asr_export.compact import PRODUCT_LEVELS, quantised
from asr_export.scan import Rewriter, with_scans

Array = npt.NDArray[Any]


def integer_product(x: str, weight: Array, name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and initializers of x · weightᵀ as the value `name.product`, of weight [outputs, inputs].

    One scale for each output, and one for x, found when it runs. ONNX Runtime makes one node of these five.
    """
    values, scale = quantised(weight, (0,), PRODUCT_LEVELS)
    levels = [f"{name}.{part}" for part in ("levels", "scale", "zero")]
    stored = {
        f"{name}.weight.int8": np.ascontiguousarray(values.T),
        f"{name}.weight.zero": np.zeros(len(values), np.int8),
        f"{name}.weight.scale": scale[:, 0],
    }
    matrix, zero, scales = stored
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("DynamicQuantizeLinear", [x], levels, {}),
        ("MatMulInteger", [levels[0], matrix, levels[2], zero], [f"{name}.sums"], {}),
        ("Mul", [levels[1], scales], [f"{name}.scales"], {}),
        ("Cast", [f"{name}.sums"], [f"{name}.float"], {"to": TensorProto.FLOAT}),
        ("Mul", [f"{name}.float", f"{name}.scales"], [f"{name}.product"], {}),
    ]
    made = [helper.make_node(kind, inputs, outputs, outputs[0], **more) for kind, inputs, outputs, more in nodes]
    return made, [numpy_helper.from_array(value, key) for key, value in stored.items()]


class IntegerRewriter(Rewriter):
    """A GRU as a loop whose matrices are multiplied in 8 bits, those of the inputs and those of the states.

    The pad flag stays out of them, since its weight would take the scale of its row: it is added, times its column.
    """

    def __init__(self, gru: onnx.NodeProto, element: int | None, model: onnx.ModelProto) -> None:
        super().__init__(gru, element, model)
        stored = {each.name: each for each in model.graph.initializer}
        self.input_weights, self.state_weights = (numpy_helper.to_array(stored[name]) for name in self.inputs[1:3])
        (flagged,) = (node for node in model.graph.node if self.inputs[0] in node.output)
        self.masked, self.padding = flagged.input

    def split(self, kind: str, value: str) -> list[str]:
        """Only biases are cut in the graph; matrices are cut here."""
        return super().split(kind, value) if kind == "B" else ["", ""]

    def input_product(self, weight: str, number: int, direction: str) -> str:
        """The products of masked inputs, and the flag's share."""
        rows = self.input_weights[number]
        product = self.multiply(self.made, self.masked, rows[:, :-1], f"{self.name}.scan.{direction}.inputs")
        column = f"{self.name}.scan.{direction}.flag"
        self.stored.append(numpy_helper.from_array(np.ascontiguousarray(rows[:, -1]), column))
        share = self.add("Mul", self.padding, column, name=f"{direction}.flag.share")
        return self.add("Add", product, share, name=f"{direction}.product")

    def recurrent_weight(self, weight: str, direction: str) -> str:
        """None in the graph."""
        return ""

    def recurrent_product(self, weight: str, number: int, state: str) -> tuple[str, list[onnx.NodeProto]]:
        """The nodes inside the loop."""
        nodes: list[onnx.NodeProto] = []
        return self.multiply(nodes, state, self.state_weights[number], f"{state}.weighted"), nodes

    def multiply(self, nodes: list[onnx.NodeProto], x: str, weight: Array, name: str) -> str:
        """Append a product to `nodes` and return its value."""
        made, stored = integer_product(x, weight, name)
        nodes += made
        self.stored += stored
        return f"{name}.product"


def with_integer_scans(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model`, a file of asr-export in float32, whose recurrent layers are loops of 8-bit products."""
    made = with_scans(model, IntegerRewriter)
    used = {name for node in made.graph.node for name in node.input}
    kept = [
        each for each in made.graph.initializer if each.name in used or ".scan." in each.name or ".state." in each.name
    ]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    return made
