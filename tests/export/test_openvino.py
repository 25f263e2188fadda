"""A second runtime that shares no code with the first: the one that `sequence_lens` of a GRU fails on in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from asr_export.compact import rounded
from asr_export.graph import author
from asr_export.proofs import Session
from asr_export.signals import padded, speech_like
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Model

openvino = pytest.importorskip("openvino", reason="openvino is not installed")

# Left alone, OpenVINO rounds activations, too: to bfloat16, and to 8 bits where weights are (1e-2 here).
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
TOKENS = [*"' abcdefghijklmnopqrstuvwxyz", ""]
ARCHITECTURES = [
    CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=24, activation="gelu"),
    ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2),
]


@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.architecture)
def test_openvino_agrees_on_a_padded_batch(
    architecture: Model, storage: str, authored: Callable[..., tuple[AcousticModel, onnx.ModelProto]], tmp_path: Path
) -> None:
    model = rounded(authored(architecture)[0], storage)
    graph, path = author(model, TOKENS, storage), tmp_path / "model.onnx"
    onnx.save(graph, path)
    compiled = openvino.Core().compile_model(path, "CPU", EXACT)
    batch = [speech_like(length, 16_000, length) for length in (31_000, 1, 8_000, 15_999)]
    waveform, lengths = padded(batch), [len(item) for item in batch]
    result = compiled({"waveform": waveform, "lengths": np.array(lengths)})
    expected = Session(graph.SerializeToString()).log_probs(waveform, np.array(lengths))
    assert result["frames"].tolist() == [len(item) for item in expected]
    for ours, theirs in zip(result["log_probs"], expected, strict=True):
        np.testing.assert_allclose(ours[: len(theirs)], theirs, atol=1e-4)
