"""The convolution and attention family as nodes: `asr_training.model.ConvolutionAttentionEncoder` in evaluation."""

from __future__ import annotations

import torch
from torch import nn

from asr_export.builder import GraphBuilder
from asr_training.model import Attention, ConvolutionAttentionEncoder, ConvolutionBlock, Stem


def convolution_attention(
    graph: GraphBuilder, features: str, frames: str, encoder: ConvolutionAttentionEncoder
) -> tuple[str, str]:
    """Features [batch, mels, frames] to logits [batch, frames out, tokens] and the frames of each item."""
    finer = encoder.config.subframes > 1
    frames = graph.ceil_divide(frames, 4, "steps" if finer else "frames")
    x = stem(graph, features, encoder.stem, "encoder.stem")
    size = graph.size(x, 1, "frames.most")
    mask = graph.mask(frames, size, [2], "encoder.mask")
    positions = rotary_positions(graph, size, encoder)
    hidden = attention_bias(graph, mask)
    for i, block in enumerate(encoder.blocks):
        if str(i) in encoder.attentions:
            layer = encoder.attentions[str(i)]
            assert isinstance(layer, Attention)
            x = attention(graph, x, hidden, positions, layer, f"encoder.attentions.{i}")
        assert isinstance(block, ConvolutionBlock)
        x = convolution_block(graph, x, mask, block, f"encoder.blocks.{i}")
        if encoder.condition is not None and i == encoder.intermediate_block:
            x = condition(graph, x, encoder.intermediate, encoder.condition, "encoder.condition")
    logits = graph.linear(graph.layer_norm(x, encoder.norm, "encoder.norm"), encoder.output, "logits")
    return subframes(graph, logits, frames, encoder) if finer else (logits, frames)


def subframes(graph: GraphBuilder, logits: str, steps: str, encoder: ConvolutionAttentionEncoder) -> tuple[str, str]:
    """The frames that each step has side by side, one after the other: [batch, steps · subframes, tokens]."""
    count = encoder.config.subframes
    tokens = encoder.output.out_features // count
    logits = graph.node("Reshape", logits, graph.integers(0, -1, tokens), name="logits.finer")
    return logits, graph.node("Mul", steps, graph.integers(count, scalar=True), name="frames")


def condition(graph: GraphBuilder, x: str, found: nn.Linear, layer: nn.Linear, name: str) -> str:
    """Linear → softmax → Linear, added to the input: what the intermediate layer found, for the blocks behind it."""
    probabilities = graph.node("Softmax", graph.linear(x, found, f"{name}.found"), name=f"{name}.softmax", axis=-1)
    return graph.node("Add", x, graph.linear(probabilities, layer, f"{name}.layer"), name=name)


def stem(graph: GraphBuilder, features: str, layer: Stem, name: str) -> str:
    """Windows of 8 feature frames every 4, as a convolution: [batch, mels, frames] to [batch, frames out, width].

    The padding is a node of its own, since ONNX Runtime on CUDA takes no convolution with unequal pads.
    """
    bias = layer.window.bias
    assert bias is not None  # nn.Conv1d is made with one
    x = graph.node("Pad", features, graph.integers(0, 0, 2, 0, 0, 5), name=f"{name}.padded")
    weights = graph.weight(f"{name}.window.weight", layer.window.weight), graph.weight(f"{name}.window.bias", bias)
    x = graph.node("Conv", x, *weights, name=f"{name}.window", strides=[4])
    x = graph.node("Relu", x, name=f"{name}.activation")
    x = graph.node("Transpose", x, name=f"{name}.frames_first", perm=[0, 2, 1])
    return graph.layer_norm(graph.linear(x, layer.projection, f"{name}.projection"), layer.norm, name)


def rotary_positions(graph: GraphBuilder, size: str, encoder: ConvolutionAttentionEncoder) -> tuple[str, str]:
    """Cosines and sines of the positions, each [frames, head size / 2] (Su et al. 2021, arXiv 2104.09864).

    Angles are float32 in every graph: float16 has no step finer than 0.25 from 256 on.
    """
    half = encoder.config.width // encoder.config.heads // 2
    frequencies = graph.store("positions.frequencies", (1e4 ** (-torch.arange(half) / half)).numpy())
    zero, one = graph.integers(0, scalar=True), graph.integers(1, scalar=True)
    index = graph.node("Cast", graph.node("Range", zero, size, one, name="positions.index"), name="positions", to=1)
    column = graph.node("Unsqueeze", index, graph.integers(1), name="positions.column")
    angles = graph.node("Mul", column, frequencies, name="positions.angles")
    cosines, sines = (graph.node(kind, angles, name=f"positions.{kind.lower()}") for kind in ("Cos", "Sin"))
    return graph.cast(cosines, "positions.cosines"), graph.cast(sines, "positions.sines")


def attention_bias(graph: GraphBuilder, mask: str) -> str:
    """0 for frames of the item and -1e4 for padding, to add to attention scores: [batch, 1, 1, frames]."""
    row = graph.node("Transpose", mask, name="attention.row", perm=[0, 2, 1])
    row = graph.node("Unsqueeze", row, graph.integers(1), name="attention.mask")
    padding = graph.node("Sub", row, graph.number(1.0), name="attention.padding")
    return graph.node("Mul", padding, graph.number(1e4), name="attention.bias")


def attention(graph: GraphBuilder, x: str, hidden: str, positions: tuple[str, str], layer: Attention, name: str) -> str:
    """LayerNorm → self-attention with rotary positions over the item's frames, added to the input."""
    width, heads = layer.config.width, layer.config.heads
    size = width // heads
    weight, bias = scaled_queries(layer.queries_keys_values, size)
    y = graph.affine(graph.layer_norm(x, layer.norm, f"{name}.norm"), weight, bias, f"{name}.queries_keys_values")
    y = graph.node("Reshape", y, graph.integers(0, 0, 3 * heads, size), name=f"{name}.heads")
    y = graph.node("Transpose", y, name=f"{name}.heads_first", perm=[0, 2, 1, 3])  # [batch, 3 · heads, frames, size]
    rotated, values = graph.split(y, (2 * heads, heads), 1, (f"{name}.unrotated", f"{name}.values"))
    rotated = rotate(graph, rotated, positions, size // 2, f"{name}.rotated")
    queries, keys = graph.split(rotated, (heads, heads), 1, (f"{name}.queries", f"{name}.keys"))
    keys = graph.node("Transpose", keys, name=f"{name}.keys.columns", perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", queries, keys, name=f"{name}.scores")
    scores = graph.node("Add", scores, hidden, name=f"{name}.masked")
    weights = graph.node("Softmax", scores, name=f"{name}.weights", axis=-1)
    y = graph.node("MatMul", weights, values, name=f"{name}.weighted")
    y = graph.node("Transpose", y, name=f"{name}.frames_first", perm=[0, 2, 1, 3])
    y = graph.node("Reshape", y, graph.integers(0, 0, width), name=f"{name}.joined")
    return graph.node("Add", x, graph.linear(y, layer.output, f"{name}.output"), name=name)


def scaled_queries(layer: nn.Linear, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The projection with the scores' factor 1 / √size in the queries' rows; rotation leaves it as it is."""
    scale = torch.ones(layer.out_features)
    scale[: layer.in_features] = size**-0.5
    return layer.weight * scale[:, None], layer.bias * scale


def rotate(graph: GraphBuilder, x: str, positions: tuple[str, str], half: int, name: str) -> str:
    """(a, b) to (a · cos - b · sin, b · cos + a · sin), where a and b are the halves of the last axis."""
    cosines, sines = positions
    a, b = graph.split(x, (half, half), -1, (f"{name}.a", f"{name}.b"))

    def product(half: str, factor: str, part: str) -> str:
        return graph.node("Mul", half, factor, name=f"{name}.{part}")

    first = graph.node("Sub", product(a, cosines, "a.cos"), product(b, sines, "b.sin"), name=f"{name}.first")
    second = graph.node("Add", product(b, cosines, "b.cos"), product(a, sines, "a.sin"), name=f"{name}.second")
    return graph.node("Concat", first, second, name=name, axis=-1)


def convolution_block(graph: GraphBuilder, x: str, mask: str, block: ConvolutionBlock, name: str) -> str:
    """Mask → depthwise convolution → LayerNorm → Linear → ReLU → Linear, added to the masked input."""
    bias, half = block.depthwise.bias, block.config.kernel // 2
    assert bias is not None  # nn.Conv1d is made with one
    x = graph.node("Mul", x, mask, name=f"{name}.masked")
    y = graph.node("Transpose", x, name=f"{name}.channels_first", perm=[0, 2, 1])
    kernel = graph.weight(f"{name}.depthwise.weight", block.depthwise.weight)
    shift = graph.weight(f"{name}.depthwise.bias", bias)
    y = graph.node("Conv", y, kernel, shift, name=f"{name}.depthwise", group=block.config.width, pads=[half, half])
    y = graph.node("Transpose", y, name=f"{name}.frames_first", perm=[0, 2, 1])
    y = graph.linear(graph.layer_norm(y, block.norm, f"{name}.norm"), block.wide, f"{name}.wide")
    y = graph.linear(graph.node("Relu", y, name=f"{name}.activation"), block.narrow, f"{name}.narrow")
    return graph.node("Add", x, y, name=name)
