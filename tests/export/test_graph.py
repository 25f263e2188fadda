from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_export.proofs import Session, prove
from asr_export.signals import speech_like
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Features, Model

SMALL_CRNN = CRNN(channels=4, blocks=1, recurrent_layers=2, recurrent_size=24)
SMALL_CONVOLUTION_ATTENTION = ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2)
Author = Callable[..., tuple[AcousticModel, onnx.ModelProto]]

CRNNS = [
    dataclasses.replace(SMALL_CRNN, **changes)
    for changes in (
        {},
        {"convolutions": 2},
        {"activation": "gelu"},
        {"convolutions": 2, "activation": "gelu", "blocks": 3},
        {"blocks": 0},
        {"recurrent_layers": 1},
        {"recurrent_layers": 5, "recurrent_size": 7},
        {"channels": 1},
    )
]
CONVOLUTION_ATTENTIONS = [
    dataclasses.replace(SMALL_CONVOLUTION_ATTENTION, **changes)
    for changes in (
        {},
        {"attention_every": 1, "heads": 4},
        {"attention_every": 9},
        {"kernel": 9, "expansion": 1},
        {"conditioned": True},
        {"phonemes": 40, "conditioned": True},
        {"subframes": 2},
        {"subframes": 4},
    )
]
FEATURES = [
    Features(),
    Features(log=False, normalise=False),
    Features(mels=41, normalise=False),
    Features(sample_rate=8000, fft=256, window=200, hop=80, high_hz=3800.0, mels=20),
    Features(mels=128, fft=400, window=400, hop=200, low_hz=0.0, high_hz=8000.0),
]


@pytest.mark.parametrize("architecture", [*CRNNS, *CONVOLUTION_ATTENTIONS], ids=str)
def test_every_architecture_equals_pytorch(architecture: Model, authored: Author) -> None:
    model, graph = authored(architecture)
    figures = prove(graph, model)
    assert figures.max_difference <= 1e-4
    assert figures.max_difference_alone <= 1e-4


@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("architecture", [SMALL_CRNN, SMALL_CONVOLUTION_ATTENTION], ids=lambda a: a.architecture)
def test_every_front_end_equals_pytorch(architecture: Model, features: Features, authored: Author) -> None:
    model, graph = authored(architecture, features)
    prove(graph, model)


@pytest.mark.parametrize("architecture", [CRNN(blocks=1, recurrent_layers=1), ConvolutionAttention(blocks=3)], ids=str)
def test_real_sizes_equal_pytorch(architecture: Model, authored: Author) -> None:
    model, graph = authored(architecture)
    prove(graph, model)


@pytest.fixture(scope="module", params=[SMALL_CRNN, SMALL_CONVOLUTION_ATTENTION], ids=lambda a: a.architecture)
def session(request: pytest.FixtureRequest, authored: Author) -> Session:
    return Session(authored(request.param)[1].SerializeToString())


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12_000), min_size=1, max_size=5),
    extra=st.integers(0, 5_000),
    padding=st.sampled_from([0.0, 1.0, -3e5, float("nan"), float("inf")]),
)
def test_padding_and_neighbours_change_nothing(
    session: Session, lengths: list[int], extra: int, padding: float
) -> None:
    items = [speech_like(length, 16_000, seed) for seed, length in enumerate(lengths)]
    batch = np.full((len(items), max(lengths) + extra), padding, np.float32)
    for row, item in zip(batch, items, strict=True):
        row[: len(item)] = item
    for item, together in zip(items, session.log_probs(batch, np.array(lengths)), strict=True):
        alone = session.log_probs(item[None], np.array([len(item)]))[0]
        assert together.shape == alone.shape
        np.testing.assert_allclose(together, alone, atol=1e-4, rtol=0)


def test_log_probabilities_sum_to_one(session: Session) -> None:
    (log_probs,) = session.log_probs(speech_like(16_000, 16_000, 1)[None], np.array([16_000]))
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1, atol=1e-5)


def test_the_file_describes_itself(authored: Author) -> None:
    model, graph = authored(SMALL_CRNN)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert "".join(json.loads(metadata["tokens"])) == "' abcdefghijklmnopqrstuvwxyz"
    assert float(metadata["frame_seconds"]) == model.frame_seconds == 0.02
    assert metadata["sample_rate"] == "16000"
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    used = {name for node in graph.graph.node for name in node.input}
    assert {value.name for value in graph.graph.initializer} <= used


def test_no_gru_has_sequence_lengths(authored: Author) -> None:
    grus = [node for node in authored(SMALL_CRNN)[1].graph.node if node.op_type == "GRU"]
    assert len(grus) == SMALL_CRNN.recurrent_layers
    assert all(len(node.input) == 4 for node in grus)


def test_the_training_only_head_is_left_out(authored: Author) -> None:
    _, graph = authored(SMALL_CONVOLUTION_ATTENTION)
    assert not [value.name for value in graph.graph.initializer if "intermediate" in value.name]


def test_onnx_reference_implementation_agrees_(authored: Author) -> None:
    """A second runtime that shares no code with the first: onnx's own, in NumPy."""
    from onnx.reference import ReferenceEvaluator

    _, graph = authored(SMALL_CONVOLUTION_ATTENTION)
    waveform = np.stack([speech_like(4_000, 16_000, 1), speech_like(4_000, 16_000, 2)])
    lengths = np.array([4_000, 2_500])
    log_probs, frames = ReferenceEvaluator(onnx.load_from_string(graph.SerializeToString())).run(
        ["log_probs", "frames"], {"waveform": waveform, "lengths": lengths}
    )
    for item, count, other in zip(
        log_probs, frames, Session(graph.SerializeToString()).log_probs(waveform, lengths), strict=True
    ):
        np.testing.assert_allclose(item[:count], other, atol=1e-4)
