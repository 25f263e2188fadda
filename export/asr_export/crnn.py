"""The CRNN family as nodes: `asr_training.model.CRNNEncoder`, without packed sequences.

Two layouts differ from PyTorch's, for speed: the residual convolutions run on [batch, channels, frames, bands] with
transposed kernels, so that LayerNorm over bands needs no transposition, and the recurrent layers on
[frames, batch, size], which is the GRU operator's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from asr_export.builder import GraphBuilder
from asr_training.model import CRNNEncoder, RecurrentLayer, ResidualBlock

RecurrentAuthor = Callable[[GraphBuilder, str, str, str, RecurrentLayer, str], str]


def crnn(
    graph: GraphBuilder, features: str, frames: str, encoder: CRNNEncoder, recurrent: RecurrentAuthor | None = None
) -> tuple[str, str]:
    """Features [batch, mels, frames] to logits [batch, frames out, tokens] and the frames of each item.

    `recurrent` writes the nodes of a recurrent layer, by default `recurrent_layer`.
    """
    activation = encoder.config.activation
    frames = graph.ceil_divide(frames, 2, "frames")
    x = graph.node("Transpose", features, name="encoder.frames_first", perm=[0, 2, 1])
    x = graph.node("Unsqueeze", x, graph.integers(1), name="encoder.channel")
    x = convolution(graph, x, encoder.convolution, "encoder.convolution")
    size = graph.size(x, 2, "frames.most")
    mask = graph.mask(frames, size, [1, 3], "encoder.mask")
    for i, block in enumerate(encoder.blocks):
        assert isinstance(block, ResidualBlock)
        x = residual_block(graph, x, mask, block, f"encoder.blocks.{i}")

    x = graph.node("Transpose", x, name="encoder.time_major", perm=[2, 0, 1, 3])
    x = graph.node("Reshape", x, graph.integers(0, 0, -1), name="encoder.flat")
    x = graph.linear(x, encoder.projection, "encoder.projection")
    mask = graph.node("Transpose", mask, name="encoder.recurrent_mask.channel", perm=[2, 0, 1, 3])
    mask = graph.node("Squeeze", mask, graph.integers(3), name="encoder.recurrent_mask")
    padding = graph.node("Sub", graph.number(1.0), mask, name="encoder.padding")
    for i, layer in enumerate(encoder.layers):
        assert isinstance(layer, RecurrentLayer)
        x = (recurrent or recurrent_layer)(graph, x, mask, padding, layer, f"encoder.layers.{i}")

    x = graph.node("Transpose", x, name="encoder.batch_major", perm=[1, 0, 2])
    x = graph.activation(graph.linear(x, encoder.hidden, "encoder.hidden"), activation, "encoder.hidden.activation")
    return graph.linear(x, encoder.output, "logits"), frames


def convolution(graph: GraphBuilder, x: str, layer: nn.Conv2d, name: str) -> str:
    """A 3 × 3 convolution on [batch, channels, frames, bands]; PyTorch's kernel has the last two the other way."""
    assert layer.bias is not None  # nn.Conv2d is made with one
    weights = (
        graph.weight(f"{name}.weight", layer.weight.transpose(2, 3)),
        graph.weight(f"{name}.bias", layer.bias),
    )
    return graph.node("Conv", x, *weights, name=name, strides=list(layer.stride), pads=[1, 1, 1, 1])


def residual_block(graph: GraphBuilder, x: str, mask: str, block: ResidualBlock, name: str) -> str:
    """(LayerNorm over bands → activation → mask → Conv2d) once or more, added to the input."""
    y = x
    for i, (norm, layer) in enumerate(zip(block.norms, block.convolutions, strict=True)):
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(layer, nn.Conv2d)
        y = graph.layer_norm(y, norm, f"{name}.norms.{i}")
        y = graph.activation(y, block.config.activation, f"{name}.activations.{i}")
        y = graph.node("Mul", y, mask, name=f"{name}.masked.{i}")
        y = convolution(graph, y, layer, f"{name}.convolutions.{i}")
    return graph.node("Add", x, y, name=name)


def recurrent_layer(graph: GraphBuilder, x: str, mask: str, padding: str, layer: RecurrentLayer, name: str) -> str:
    """LayerNorm → activation → mask and pad flag → bidirectional GRU, on [frames, batch, size].

    The GRU operator's `sequence_lens` is not portable, so the input carries one more number, 1 in padding, whose
    weight holds the update gate shut: the backward state stays 0 until the item's last frame. What the forward
    direction leaves in padding is masked by the next layer.
    """
    x = graph.layer_norm(x, layer.norm, f"{name}.norm")
    x = graph.activation(x, layer.config.activation, f"{name}.activation")
    x = graph.node("Mul", x, mask, name=f"{name}.masked")
    x = graph.node("Concat", x, padding, name=f"{name}.flagged", axis=-1)
    weights, size = gru_weights(graph, layer.gru, f"{name}.gru"), layer.gru.hidden_size
    # [frames, directions, batch, size]
    x = graph.node(
        "GRU", x, *weights, name=f"{name}.gru", direction="bidirectional", hidden_size=size, linear_before_reset=1
    )
    x = graph.node("Transpose", x, name=f"{name}.directions", perm=[0, 2, 1, 3])
    return graph.node("Reshape", x, graph.integers(0, 0, 2 * size), name=name)


def gru_weights(graph: GraphBuilder, gru: nn.GRU, name: str) -> list[str]:
    """The operator's W [2, 3 · size, inputs + 1], with the flag's column, R [2, 3 · size, size] and B [2, 6 · size]."""
    weights = dict(gru.named_parameters())

    def both(kind: str) -> Tensor:
        return torch.stack([update_gate_first(weights[f"{kind}_l0{suffix}"]) for suffix in ("", "_reverse")])

    column = torch.zeros(2, 3 * gru.hidden_size, 1)
    column[:, : gru.hidden_size] = pad_flag(gru)
    return [
        flagged(graph, both("weight_ih"), column, f"{name}.W"),
        graph.weight(f"{name}.R", both("weight_hh"), channels=(0, 1)),
        graph.constant(f"{name}.B", torch.cat([both("bias_ih"), both("bias_hh")], 1)),
    ]


def flagged(graph: GraphBuilder, inputs: Tensor, column: Tensor, name: str) -> str:
    """W with the flag's column behind it; where weights are stored compactly, the column stays as exact as it is."""
    if graph.storage == "fp32":
        return graph.constant(name, torch.cat([inputs, column], 2))
    weight = graph.weight(f"{name}.inputs", inputs, channels=(0, 1))
    return graph.node("Concat", weight, graph.constant(f"{name}.flag", column), name=name, axis=2)


def update_gate_first(rows: Tensor) -> Tensor:
    """PyTorch's gates r, z, n as ONNX's z, r, h."""
    reset, update, new = rows.detach().chunk(3)
    return torch.cat([update, reset, new])


def pad_flag(gru: nn.GRU) -> float:
    """A weight that makes sigmoid(flag + bias of z) exactly 1: in float32 from 18 on, so 32 leaves room."""
    size, bias = gru.hidden_size, 0.0
    for suffix in ("", "_reverse"):
        both = (getattr(gru, f"bias_ih_l0{suffix}") + getattr(gru, f"bias_hh_l0{suffix}")).detach()
        bias = max(bias, float(both[size : 2 * size].abs().max()))
    return 32.0 + math.ceil(bias)
