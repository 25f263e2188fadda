"""A small author of ONNX graphs: named nodes and weights, and the layers that both model families share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from asr_export.compact import quantised
from asr_export.integers import integer_product

OPSET = 17  # the first with LayerNormalization; ONNX Runtime 1.18, OpenVINO and TensorRT 10.3 and 11 all read it
IR_VERSION = 8  # the file format that came with opset 17

Array = npt.NDArray[Any]


class GraphBuilder:
    """Collects nodes and initializers. A value has the name of the node that makes it.

    Weights are stored as `storage` says: fp32, fp16 or int8 (see `compact`). Nodes compute in float32 until
    `compute_in` says otherwise; constants and masks that are made from then on have the new type.
    """

    def __init__(self, storage: str = "fp32") -> None:
        self.storage = storage
        self.eight_bit = False  # whether `affine` multiplies 8-bit integers
        self.dtype: Any = np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append a node of one output and return that value's name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def split(self, x: str, parts: Sequence[int], axis: int, names: Sequence[str]) -> list[str]:
        """Cut `x` along an axis into parts of the given sizes."""
        self.nodes.append(helper.make_node("Split", [x, self.integers(*parts)], names, names[0], axis=axis))
        return list(names)

    @property
    def element(self) -> int:
        """ONNX's number of the type that nodes compute in."""
        return int(TensorProto.FLOAT if self.dtype is np.float32 else TensorProto.FLOAT16)

    def compute_in(self, dtype: Any, x: str, name: str) -> str:
        """Let all that follows compute in `dtype` (np.float32 or np.float16), and return `x` in it."""
        if dtype is self.dtype:
            return x
        self.dtype = dtype
        return self.cast(x, name)

    def cast(self, x: str, name: str) -> str:
        """`x` in the type that nodes compute in."""
        return self.node("Cast", x, name=name, to=self.element)

    def store(self, name: str, value: Array) -> str:
        """An initializer as it is."""
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name

    def constant(self, name: str, value: Tensor) -> str:
        """A constant in the type that nodes compute in, whatever the storage of weights."""
        return self.store(name, value.detach().cpu().numpy().astype(self.dtype))

    def weight(self, name: str, value: Tensor, channels: Sequence[int] = (0,)) -> str:
        """A trained weight in the graph's storage, back in the type of the nodes; vectors are stored in that type.

        `channels` are the axes of output channels, each with a scale of its own where 8 bits are stored.
        """
        if self.storage == "fp32" or value.ndim == 1 or self.dtype is np.float16:
            return self.constant(name, value)
        array = value.detach().cpu().numpy()
        if self.storage == "fp16":
            stored = self.store(f"{name}.fp16", array.astype(np.float16))
            return self.node("Cast", stored, name=name, to=TensorProto.FLOAT)
        values, scale = quantised(array, channels)
        wide = self.node("Cast", self.store(f"{name}.int8", values), name=f"{name}.levels", to=TensorProto.FLOAT)
        return self.node("Mul", wide, self.store(f"{name}.scale", scale), name=name)

    def number(self, value: float) -> str:
        """A number in the type that nodes compute in; equal ones are stored once."""
        kind = "number" if self.dtype is np.float32 else "half"
        return self.store(f"{kind} {value!r}", np.array(value, self.dtype))

    def integers(self, *values: int, scalar: bool = False) -> str:
        """An int64 constant: a list of axes, sizes or a shape, or a scalar; equal ones are stored once."""
        name = f"integer {values[0]}" if scalar else f"integers {' '.join(map(str, values))}"
        array = np.array(values[0] if scalar else values, np.int64)
        self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def inside(self, lengths: str, size: str, name: str) -> str:
        """Whether a position lies inside its item: bool [batch, size], from int64 [batch] and a scalar."""
        zero, one = self.integers(0, scalar=True), self.integers(1, scalar=True)
        positions = self.node("Range", zero, size, one, name=f"{name}.positions")
        column = self.node("Unsqueeze", lengths, self.integers(1), name=f"{name}.lengths")
        return self.node("Less", positions, column, name=name)

    def size(self, x: str, axis: int, name: str) -> str:
        """The length of one axis as an int64 scalar."""
        shape = self.node("Shape", x, name=f"{name}.shape", start=axis, end=axis + 1)
        return self.node("Squeeze", shape, self.integers(0), name=name)

    def mask(self, frames: str, size: str, axes: Sequence[int], name: str) -> str:
        """1 inside an item and 0 in padding: [batch, size] with axes of size 1 put in at `axes`."""
        inside = self.inside(frames, size, f"{name}.inside")
        mask = self.cast(inside, f"{name}.float")
        return self.node("Unsqueeze", mask, self.integers(*axes), name=name)

    def ceil_divide(self, x: str, divisor: int, name: str) -> str:
        """Integer division that rounds up."""
        raised = self.node("Add", x, self.integers(divisor - 1, scalar=True), name=f"{name}.raised")
        return self.node("Div", raised, self.integers(divisor, scalar=True), name=name)

    def linear(self, x: str, layer: nn.Linear, name: str) -> str:
        """`torch.nn.Linear` on the last axis."""
        return self.affine(x, layer.weight, layer.bias, name)

    def affine(self, x: str, weight: Tensor, bias: Tensor, name: str) -> str:
        """x · weightᵀ + bias on the last axis."""
        if self.eight_bit:
            product = self.integer_product(x, weight, name)
            return self.node("Add", product, self.weight(f"{name}.bias", bias), name=name)
        product = self.node(
            "MatMul", x, self.weight(f"{name}.weight", weight.t(), channels=(1,)), name=f"{name}.product"
        )
        return self.node("Add", product, self.weight(f"{name}.bias", bias), name=name)

    def integer_product(self, x: str, weight: Tensor, name: str) -> str:
        """x · weightᵀ of 8-bit integers."""
        nodes, stored = integer_product(x, weight.detach().cpu().numpy(), name)
        self.nodes += nodes
        self.initializers |= {each.name: each for each in stored}
        return f"{name}.product"

    def layer_norm(self, x: str, layer: nn.LayerNorm, name: str) -> str:
        """`torch.nn.LayerNorm` over the last axis."""
        weights = self.weight(f"{name}.weight", layer.weight), self.weight(f"{name}.bias", layer.bias)
        return self.node("LayerNormalization", x, *weights, name=name, axis=-1, epsilon=layer.eps)

    def activation(self, x: str, kind: str, name: str) -> str:
        """ReLU, or GELU by the error function (opset 17 has none of its own; runtimes fuse these five nodes)."""
        if kind == "relu":
            return self.node("Relu", x, name=name)
        scaled = self.node("Div", x, self.number(2**0.5), name=f"{name}.scaled")
        share = self.node("Add", self.node("Erf", scaled, name=f"{name}.erf"), self.number(1.0), name=f"{name}.share")
        return self.node("Mul", self.node("Mul", x, share, name=f"{name}.twice"), self.number(0.5), name=name)

    def finish(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The model with all that was collected."""
        graph = helper.make_graph(self.nodes, "asr", inputs, outputs, list(self.initializers.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="asr-deploy")
        helper.set_model_props(model, dict(metadata))
        return model
