"""The whole recogniser as one ONNX graph, authored node by node: waveform in, log-probabilities out.

It reads as the data flow does: masked waveform → spectrum → mel features → normalised → encoder → log-softmax.
Tracing PyTorch would not give it: see `docs/export.md`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from asr_export.builder import GraphBuilder
from asr_export.convolution_attention import convolution_attention
from asr_export.crnn import crnn
from asr_export.front_end import masked, mel_features
from asr_export.integers import with_integer_scans
from asr_training.model import AcousticModel, ConvolutionAttentionEncoder, CRNNEncoder

ARITHMETIC = {"fp32": np.float32, "fp16": np.float16, "int8": np.float32}


def author(
    model: AcousticModel, tokens: Sequence[str], storage: str = "fp32", arithmetic: str = "fp32"
) -> onnx.ModelProto:
    """The graph of an acoustic model; `tokens` goes into the file's metadata, `storage` is that of weights.

    `arithmetic` is fp32, or fp16 for the encoder: the front end, whose powers and counts leave float16's range, and the
    log-softmax stay in float32; or int8, which multiplies the matrices of the encoder in 8 bits, in recurrent layers,
    too, which become loops.

    Inputs: `waveform` float32 [batch, samples] in -1…1 and `lengths` int64 [batch]. Outputs: `log_probs` float32
    [batch, frames, tokens] and `frames` int64 [batch]. Batch and samples are dynamic; padding may hold anything.
    """
    graph = GraphBuilder(storage)
    features, feature_frames = mel_features(graph, "waveform", "lengths", model.front_end)
    features = masked(graph, features, feature_frames, model.config)
    features = graph.compute_in(ARITHMETIC[arithmetic], features, "features.encoded")
    graph.eight_bit = arithmetic == "int8"
    logits, _ = encode(graph, features, feature_frames, model)
    logits = graph.compute_in(np.float32, logits, "logits.precise")
    made = recogniser(graph, logits, tokens, model.config.sample_rate, model.frame_seconds)
    return with_integer_scans(made) if graph.eight_bit else made


def recogniser(
    graph: GraphBuilder, logits: str, tokens: Sequence[str], sample_rate: int, frame_seconds: float
) -> onnx.ModelProto:
    """What is collected as a model with a bundle's signature; the frames of each item are the value `frames`."""
    graph.node("LogSoftmax", logits, name="log_probs", axis=-1)
    return graph.finish(
        [
            helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["batch", "most_frames", len(tokens)]),
            helper.make_tensor_value_info("frames", TensorProto.INT64, ["batch"]),
        ],
        {
            "tokens": json.dumps(list(tokens), ensure_ascii=False),
            "sample_rate": str(sample_rate),
            "frame_seconds": repr(frame_seconds),
        },
    )


def encode(graph: GraphBuilder, features: str, frames: str, model: AcousticModel) -> tuple[str, str]:
    """The encoder of the model's family."""
    if isinstance(model.encoder, CRNNEncoder):
        return crnn(graph, features, frames, model.encoder)
    assert isinstance(model.encoder, ConvolutionAttentionEncoder)
    return convolution_attention(graph, features, frames, model.encoder)
