"""TensorRT-RTX builds engines without a GPU: proof that NVIDIA's parser, typing and shape checks take our graphs."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from asr_export.graph import author
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Model

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx-cu13-bindings and -libs are not installed")

TOKENS = [*"' abcdefghijklmnopqrstuvwxyz", ""]
ARCHITECTURES = [
    CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=32, activation="gelu"),
    CRNN(channels=4, blocks=1, convolutions=2, recurrent_layers=1, recurrent_size=32),
    ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2),
]


@pytest.mark.parametrize("storage", ["fp32", "fp16"])  # 8 bits are for CPUs: TensorRT wants them before its own node
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_an_engine_can_be_built(
    architecture: Model, storage: str, authored: Callable[..., tuple[AcousticModel, onnx.ModelProto]]
) -> None:
    graph = author(authored(architecture)[0], TOKENS, storage)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(graph.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    profile.set_shape("waveform", (1, 8_000), (4, 80_000), (16, 480_000))
    profile.set_shape("lengths", (1,), (4,), (16,))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    assert engine.nbytes > 10_000
